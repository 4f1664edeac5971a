"""The nouns that every layer shares. N = B * G rows, group-major: row i belongs to triplet i // G.

Torch and PIL appear in annotations only, so importing this module costs nothing.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal, overload

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

Task = Literal["t2i", "mm2t"]
TASKS: tuple[Task, ...] = ("t2i", "mm2t")
TITLES: Mapping[str, str] = {"t2i": "drawing", "mm2t": "answering"}  # as people read of them
AnswerType = Literal["mc", "oe"]
Scoring = Literal["conditional", "guided", "guided-detached"]


@dataclass(frozen=True, kw_only=True)
class Triplet:
    """<image, prompt, question>: a real image, a caption of it, and a question about it with its answer.

    `question` is what the policy is asked, options and instruction included; `answer` is stored clean: the letter
    for `mc`, the words for `oe`. `solution` is a whole completion to imitate, where the data have one.
    """

    id: str
    image: Image
    prompt: str
    question: str
    answer: str
    answer_type: AnswerType
    source: str
    solution: str = ""


class LazyTriplets(Sequence[Triplet]):
    """A sequence of triplets made when they are asked for; `at` makes one, of index 0 to len - 1."""

    @abstractmethod
    def at(self, index: int) -> Triplet:
        """The triplet of this index."""

    @overload
    def __getitem__(self, index: int) -> Triplet: ...
    @overload
    def __getitem__(self, index: slice) -> list[Triplet]: ...
    def __getitem__(self, index: int | slice) -> Triplet | list[Triplet]:
        if isinstance(index, slice):
            return [self.at(i) for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        return self.at(index % len(self))


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How completions of one task are drawn; temperature 0 is greedy.

    `max_new_tokens` bounds text only (a drawing always has as many tokens as the VQ grid); `cfg_weight` is used by
    t2i only, 1 means no classifier-free guidance. `scoring` says which distribution log-probs are of where there is
    guidance: `conditional` without it (paper), `guided` the mixed one, `guided-detached` the same without a gradient
    through its unconditional half.
    """

    group_size: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    cfg_weight: float = 1.0
    max_new_tokens: int = 512
    scoring: Scoring = "conditional"


@dataclass(frozen=True, kw_only=True)
class Samples:
    """What a reward sees: G outputs for each of B triplets; `triplets` has N entries, each repeated G times.

    `outputs` are PIL images (t2i) or strings (mm2t); `sampling` says how they were drawn, its group size above all.
    """

    task: Task
    triplets: list[Triplet]
    outputs: list[Image | str]
    sampling: Sampling

    def __len__(self) -> int:
        return len(self.triplets)

    def select(self, groups: Sequence[int]) -> Samples:
        """Some of the groups, in the order given."""
        rows = self.rows_of(groups)
        return replace(self, triplets=[self.triplets[row] for row in rows], outputs=[self.outputs[row] for row in rows])

    def rows_of(self, groups: Sequence[int]) -> list[int]:
        """The rows of some groups."""
        size = self.sampling.group_size
        return [group * size + sample for group in groups for sample in range(size)]


@dataclass(frozen=True, kw_only=True)
class Rollout(Samples):
    """Samples with the tokens they are made of: everything needed to score them again.

    Prompts are left-padded; `pixel_values` [B, C, H, W] holds each
    distinct input image once (mm2t only); `logps` [N, L] are the sampler's own log-probs under the scoring
    distribution (temperature applied, before top-p; float32); they are None for rows made from given targets.
    `truncated` [N] marks completions that the token limit cut off.
    """

    prompt_ids: Tensor
    prompt_mask: Tensor
    pixel_values: Tensor | None
    completion_ids: Tensor
    completion_mask: Tensor
    logps: Tensor | None
    truncated: Tensor

    def select(self, groups: Sequence[int]) -> Rollout:
        """See Samples.select."""
        rows = self.rows_of(groups)
        return replace(
            self,
            triplets=[self.triplets[row] for row in rows],
            prompt_ids=self.prompt_ids[rows],
            prompt_mask=self.prompt_mask[rows],
            pixel_values=None if self.pixel_values is None else self.pixel_values[list(groups)],
            completion_ids=self.completion_ids[rows],
            completion_mask=self.completion_mask[rows],
            logps=None if self.logps is None else self.logps[rows],
            truncated=self.truncated[rows],
            outputs=[self.outputs[row] for row in rows],
        )


@dataclass(frozen=True, kw_only=True)
class RewardResult:
    """What one rubric says of one rollout; `total` [N] is the weighted sum and NaN where `valid` [N] is False.

    `parts` {name: [N]} are raw and unweighted; a part of a part is named `reward.part`. `terms` {name: [N]} are what
    each reward adds to the total: weighted, and normalised within groups where the recipe says so. `notes`
    {name: [N strings]} explain scores to a human, `texts` {reward.text: [N strings]} are what a reward made of the
    samples on its way, `seconds` {name: s} say how long each reward took for all rows.
    """

    task: Task
    total: Tensor
    parts: dict[str, Tensor]
    valid: Tensor
    terms: dict[str, Tensor] = field(default_factory=dict)
    notes: dict[str, list[str]] = field(default_factory=dict)
    texts: dict[str, list[str]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Experience:
    """A rollout ready for the update: advantages [N] (0 where the row is left out), old and reference log-probs [N, L].

    `rows` [N] says which rows are in the loss; `rewards` is None for targets to imitate, `old_logps` where each rollout
    is used once, `ref_logps` where beta is 0.
    """

    rollout: Rollout
    rewards: RewardResult | None
    advantages: Tensor
    rows: Tensor
    old_logps: Tensor | None
    ref_logps: Tensor | None
