"""The recipe: one frozen description of a run that every command reads its sections from."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from corl_cli.core.types import Sampling


def _no_bool(value: Any) -> Any:
    """pydantic takes True for 1; a recipe that says `lr: yes` is a mistake."""
    if isinstance(value, bool):
        raise ValueError("a number is needed, not a truth value")
    return value


Int = Annotated[int, BeforeValidator(_no_bool)]
Float = Annotated[float, BeforeValidator(_no_bool)]
Positive = Annotated[Int, Field(ge=1)]


class Section(BaseModel):
    """A part of a recipe: frozen, and unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Model(Section):
    """Which weights to start from, in which precision, and which parts learn."""

    family: str = "janus"
    checkpoint: str = Field("world", description="'world' (the shipped tiny Janus), a hub id, a folder, or a corl run")
    dtype: Literal["float32", "bfloat16"] = Field("float32", description="compute precision; masters are float32")
    attention: Literal["sdpa", "flash_attention_2"] = "sdpa"
    train: list[Literal["language_model"]] = Field(["language_model"], description="parts that learn")
    gradient_checkpointing: bool = False


class Instruction(Section):
    """Names of the instruction added after a question, by answer type (data/templates.py)."""

    mc: str = "none"
    oe: str = "none"


class Data(Section):
    """Where triplets come from and how their columns are named."""

    path: str = Field("world", description="'world', a hub id, a folder or a parquet file")
    split: str = "train"
    limit: Positive | None = Field(None, description="use the first N triplets only")
    columns: dict[str, str] = Field(
        default_factory=dict, description="column of the data for image, prompt, question, answer, answer_type, id"
    )
    instruction: Instruction = Instruction()


class DrawSampling(Section):
    """How images are sampled while training."""

    temperature: Annotated[Float, Field(gt=0)] = 1.0
    top_p: Annotated[Float, Field(gt=0, le=1)] = 1.0
    cfg_weight: Annotated[Float, Field(ge=1)] = 1.0


class WriteSampling(Section):
    """How answers are sampled while training."""

    temperature: Annotated[Float, Field(gt=0)] = 1.0
    top_p: Annotated[Float, Field(gt=0, le=1)] = 1.0
    max_new_tokens: Positive = 512


class SamplingSection(Section):
    """Group size G and the sampler's settings for each task."""

    group_size: Annotated[Int, Field(ge=2, description="G, samples per triplet; a group of 1 has no advantage")] = 8
    t2i: DrawSampling = DrawSampling()
    mm2t: WriteSampling = WriteSampling()

    def of(self, task: str) -> Sampling:
        """The sampler's settings for one task."""
        return Sampling(group_size=self.group_size, **getattr(self, task).model_dump())


class RewardSpec(Section):
    """One reward of a rubric; keys besides these are the reward's own options, checked against its class."""

    model_config = ConfigDict(frozen=True, extra="allow")

    name: str = Field(description="a registered reward, or my_pkg.module:Class")
    weight: Float = 1.0
    missing: Literal["stop", "mask"] = Field("stop", description="what a score that is not finite does")

    @property
    def options(self) -> dict[str, Any]:
        """The reward's own options."""
        return dict(self.model_extra or {})


class Rubrics(Section):
    """The rewards of each task."""

    t2i: list[RewardSpec] = []
    mm2t: list[RewardSpec] = []


class Algo(Section):
    """The objective (paper.md; GRPO)."""

    credit: Literal["joint", "per_task"] = Field("joint", description="one advantage for the pair, or one for each task")
    mm2t_weight: Annotated[Float, Field(ge=0)] = Field(0.8, description="lambda")
    beta: Annotated[Float, Field(ge=0)] = Field(0.0, description="weight of the KL to the frozen start")
    clip_eps: Annotated[Float, Field(gt=0, lt=1)] | None = Field(None, description="PPO clipping; null is the paper")
    scale_advantages: bool = Field(True, description="divide by the group's standard deviation")
    num_iterations: Positive = Field(1, description="mu, optimiser steps per batch of rollouts")


class Optim(Section):
    """AdamW on float32 masters."""

    lr: Annotated[Float, Field(gt=0)] = 4e-6
    betas: tuple[Float, Float] = (0.9, 0.999)
    weight_decay: Annotated[Float, Field(ge=0)] = 0.0
    warmup_steps: Annotated[Int, Field(ge=0)] = 0
    schedule: Literal["constant", "linear", "cosine"] = "linear"
    max_grad_norm: Annotated[Float, Field(gt=0)] = 1.0


class Train(Section):
    """How long, and how much at once."""

    tasks: list[Literal["t2i", "mm2t"]] = Field(["t2i", "mm2t"], min_length=1)
    epochs: Positive = 1
    max_steps: Positive | None = Field(None, description="stop after this many optimiser steps")
    batch_size: Positive = Field(16, description="triplets per optimiser step over all processes")
    micro_batch_size: Positive | None = Field(None, description="rows per backward pass; null is all at once")


class Checkpoint(Section):
    """When states are saved and how many are kept."""

    every: Positive = 100
    keep: Positive = 2


class Tracking(Section):
    """What is logged besides metrics.jsonl, and how often samples are drawn."""

    trackers: list[str] = Field([], description="trackers that accelerate knows, such as tensorboard or wandb")
    samples_every: Positive = 50
    rollouts_every: Positive = 50


class Probes(Section):
    """Held-out items drawn and answered before, during and after training."""

    split: str = "test"
    items: Annotated[Int, Field(ge=2)] = 64
    every: Positive = 100
    temperature: Annotated[Float, Field(ge=0, lt=1)] = Field(
        0.0, description="of the second reading, beside the one at the training temperature"
    )
    rewards: Rubrics = Rubrics()


class Eval(Section):
    """Evaluation while training."""

    probes: Probes | None = None


class Recipe(Section):
    """One run. Each command reads its own sections and the shared ones."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    notes: str = Field("", description="what a reader should know before using it")
    seed: Int = 0
    model: Model = Model()
    data: Data = Data()
    sampling: SamplingSection = SamplingSection()
    rewards: Rubrics = Rubrics()
    algo: Algo = Algo()
    optim: Optim = Optim()
    train: Train = Train()
    checkpoint: Checkpoint = Checkpoint()
    tracking: Tracking = Tracking()
    eval: Eval = Eval()
