"""The recipe: one frozen description of a run that every command reads its sections from."""

from collections import Counter
from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, field_validator, model_validator

from corl_cli.core.agreement import disagreements
from corl_cli.core.evaluation import Answering, Drawing, Judge
from corl_cli.core.section import Float, Int, Positive, Section
from corl_cli.core.types import TASKS, AnswerType, Sampling, Scoring, Task

Beta = Annotated[Float, Field(ge=0, lt=1)]

COLUMNS = ("id", "image", "prompt", "question", "answer", "answer_type", "solution")


Part = Literal[
    "language_model", "vision_model", "aligner", "generation_embeddings", "generation_aligner", "generation_head"
]


class Lora(Section):
    """Low-rank adapters (Hu et al. 2021) on the language model, which is frozen itself."""

    rank: Positive = Field(64, description="of each adapter")
    alpha: Annotated[Float | Int, Field(gt=0)] = Field(128, description="adapters are scaled by alpha / rank")
    dropout: Annotated[Float, Field(ge=0, lt=1)] = Field(0.0, description="of the adapters' inputs, while updating")
    targets: list[str] = Field(
        ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
        min_length=1,
        description="the linear layers that get one",
    )


class Model(Section):
    """Which weights to start from, in which precision, and what of them learns."""

    family: str = Field("janus", description="the class that reads the checkpoint: janus, or my_pkg.module:Class")
    checkpoint: str = Field("world", description="'world' (the shipped tiny Janus), a hub id, a folder, or a corl run")
    dtype: Literal["float32", "bfloat16"] = Field("float32", description="compute precision; masters are float32")
    attention: Literal["sdpa", "flash_attention_2"] = "sdpa"
    gradient_checkpointing: bool = Field(False, description="recompute activations in backward: less memory, more time")
    train: list[Part] = Field(
        ["language_model"],
        min_length=1,
        description="parts that learn; the language model is with embeddings and lm_head",
    )
    lora: Lora | None = Field(None, description="train adapters in place of the language model's weights")

    @model_validator(mode="after")
    def _adapters(self) -> Self:
        if self.lora and self.train != ["language_model"]:
            raise ValueError("train: with lora the adapters learn and nothing else; leave [language_model]")
        return self


class Instruction(Section):
    """Names of the instruction added after a question, by answer type (data/templates.py)."""

    mc: str = "none"
    oe: str = "none"


class Data(Section):
    """Where triplets come from and how their columns are named."""

    path: str = Field("world", description="'world', a hub id, a folder or a parquet file")
    split: str = Field("train", description="the part of the data to train on")
    limit: Positive | None = Field(None, description="use the first N triplets only")
    answer_types: list[AnswerType] = Field(
        ["mc", "oe"], min_length=1, description="where questions are trained: multiple choice, open-ended, or both"
    )
    holdout: Annotated[Float, Field(ge=0, lt=1)] = Field(
        0.0, description="share of the split kept from training, by hash of the id, and offered as split 'test'"
    )
    columns: dict[str, str] = Field({}, description=f"the data's own names of {', '.join(COLUMNS)}, where they differ")
    instruction: Instruction = Instruction()

    @field_validator("columns")
    @classmethod
    def _known_columns(cls, columns: dict[str, str]) -> dict[str, str]:
        unknown = [name for name in columns if name not in COLUMNS]
        if unknown:
            raise ValueError(f"{', '.join(unknown)}: not one of {', '.join(COLUMNS)}")
        return columns


class SourceSpec(Section):
    """One source of triplets; keys besides the name are the source's own options, checked against its class."""

    model_config = ConfigDict(extra="allow")

    name: str = Field(description="a registered source, or my_pkg.module:Class")

    @property
    def options(self) -> dict[str, Any]:
        """The source's own options."""
        return dict(self.model_extra or {})


class Filters(Section):
    """Which items are left out; null leaves none out."""

    min_coverage: Annotated[Float, Field(ge=0, le=1)] | None = Field(
        None, description="least share of the concepts of question and answer that the prompt names"
    )
    min_words: Annotated[Int, Field(ge=0)] | None = Field(None, description="fewest words of a prompt")
    max_words: Positive | None = Field(None, description="most words of a prompt")
    english: bool = Field(False, description="leave out prompts that are not English")
    min_side: Positive | None = Field(None, description="least width and height of an image in pixels")
    max_aspect: Annotated[Float, Field(ge=1)] | None = Field(
        None, description="most that one side is longer, as a ratio"
    )
    near_duplicates: Annotated[Int, Field(ge=0, le=16)] | None = Field(
        None, description="images whose perceptual hashes differ in no more bits count as one; the first stays"
    )
    duplicates: bool = Field(True, description="leave out a question asked again of the same image")
    contradictions: bool = Field(True, description="leave out a question that has two answers for the same image")


class Balance(Section):
    """Shares of the set that are evened out by leaving items out, chosen by seed."""

    letters: bool = Field(False, description="as many right answers A as B, C, ... among questions of as many options")
    mc_share: Annotated[Float, Field(gt=0, lt=1)] | None = Field(None, description="share of multiple choice")


class Prepare(Section):
    """How `corl prepare-data` builds a set of triplets."""

    sources: list[SourceSpec] = Field([SourceSpec(name="world")], min_length=1, description="in this order")
    filters: Filters = Filters()
    balance: Balance = Balance()
    synonyms: bool = Field(True, description="whether words of one meaning are one concept, for coverage")
    images: Literal["bytes", "paths"] = Field("bytes", description="store image files inside, or where they are")
    shard_size: Positive = Field(1000, description="items read at once by a process, and rows of a parquet file")
    test: Annotated[Float, Field(ge=0, lt=1)] = Field(0.0, description="share of the images kept as the split test")


class DrawSampling(Section):
    """How images are sampled while training."""

    temperature: Annotated[Float, Field(gt=0)] = 1.0
    top_p: Annotated[Float, Field(gt=0, le=1)] = 1.0
    cfg_weight: Annotated[Float, Field(ge=1)] = Field(1.0, description="classifier-free guidance; 1 is none")
    scoring: Scoring = Field(
        "conditional", description="the distribution that log-probs are of: without guidance (paper), or with it"
    )


class WriteSampling(Section):
    """How answers are sampled while training."""

    temperature: Annotated[Float, Field(gt=0)] = 1.0
    top_p: Annotated[Float, Field(gt=0, le=1)] = 1.0
    max_new_tokens: Positive = Field(512, description="longest answer")


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

    model_config = ConfigDict(extra="allow")

    name: str = Field(description="a registered reward, or my_pkg.module:Class")
    weight: Float = Field(1.0, description="in the task's total")
    on_error: Literal["stop", "mask"] = Field("stop", description="what a failed or non-finite score does")
    normalise: bool = Field(False, description="to mean 0 and deviation 1 within each group, before the sum")

    @property
    def options(self) -> dict[str, Any]:
        """The reward's own options."""
        return dict(self.model_extra or {})


class Rubrics(Section):
    """The rewards of each task."""

    t2i: list[RewardSpec] = Field([], description="of drawings")
    mm2t: list[RewardSpec] = Field([], description="of answers")

    @field_validator("t2i", "mm2t")
    @classmethod
    def _distinct(cls, specs: list[RewardSpec]) -> list[RewardSpec]:
        twice = [name for name, count in Counter(spec.name for spec in specs).items() if count > 1]
        if twice:
            raise ValueError(f"{', '.join(twice)}: given twice; scores are told apart by name")
        return specs


class Algo(Section):
    """The objective: GRPO as in CoRL (arXiv 2505.17534), its variants by option."""

    credit: Literal["joint", "per_task", "blend"] = Field(
        "joint", description="one advantage for the pair (paper), one for each task, or a weighted mean of the two"
    )
    blend: Annotated[Float, Field(ge=0, le=1)] = Field(0.5, description="weight of the pair's advantage in a blend")
    mm2t_weight: Annotated[Float, Field(ge=0)] = Field(0.8, description="lambda")
    scale_advantages: Literal["group", "batch", "none"] = Field(
        "group", description="divide by the standard deviation of the group (paper), of the batch, or not at all"
    )
    ratio: Literal["token", "sequence"] = Field("token", description="of each token (paper), or one a row (GSPO)")
    clip_eps: Annotated[Float, Field(gt=0, lt=1)] | None = Field(None, description="PPO clipping; null is the paper")
    clip_eps_high: Annotated[Float, Field(gt=0)] | None = Field(
        None, description="upper clipping bound, where it is not clip_eps (DAPO's clip-higher)"
    )
    beta: Annotated[Float, Field(ge=0)] = Field(0.0, description="weight of the KL to the frozen start")
    kl: Literal["k1", "k2", "k3"] = Field("k3", description="estimator of the KL")
    loss: Literal["grpo", "bnpo", "dr_grpo", "dapo"] = Field("grpo", description="how tokens are averaged")
    num_iterations: Positive = Field(1, description="mu, optimiser steps per batch of rollouts")
    mask_truncated: bool = Field(False, description="leave answers cut at the token limit out of the loss")
    dynamic_sampling: Annotated[Int, Field(ge=0)] = Field(
        0, description="rounds in which groups without any variance are replaced by groups of other triplets (DAPO)"
    )

    @model_validator(mode="after")
    def _clipping(self) -> Self:
        if self.clip_eps_high is not None and self.clip_eps is None:
            raise ValueError("clip_eps_high: there is no clipping without clip_eps")
        return self


class Optim(Section):
    """AdamW on float32 masters."""

    lr: Annotated[Float, Field(gt=0)] = Field(4e-6, description="peak learning rate")
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    weight_decay: Annotated[Float, Field(ge=0)] = 0.0
    warmup_steps: Annotated[Int, Field(ge=0)] = Field(0, description="steps of linear warm-up")
    schedule: Literal["constant", "linear", "cosine"] = Field("linear", description="decay after the warm-up")
    max_grad_norm: Annotated[Float, Field(gt=0)] = Field(1.0, description="gradients are clipped to this norm")
    skip_above: Annotated[Float, Field(gt=0)] | None = Field(
        None, description="norm of a gradient that explodes: the step is skipped, as where it is not finite"
    )
    max_skipped: Annotated[Int, Field(ge=0)] = Field(5, description="skipped steps in a row that a run survives")


class Cycle(Section):
    """Tasks by turns (the paper's RL-Cycle): one task a step, changed after a while."""

    every: Positive = Field(1, description="how long a task's turn is")
    unit: Literal["steps", "epochs"] = "steps"


class Train(Section):
    """What is trained, how long, and how much at once."""

    method: Literal["rl", "sft"] = Field("rl", description="reinforcement, or imitation of the data's own targets")
    tasks: list[Task] = Field(list(TASKS), min_length=1, description="what is trained; both is unified training")
    cycle: Cycle | None = Field(None, description="train the tasks by turns; null trains them together")
    epochs: Positive = Field(1, description="passes over the data")
    max_steps: Positive | None = Field(None, description="this many batches, in place of the epochs")
    batch_size: Positive = Field(16, description="triplets per optimiser step over all processes")
    micro_batch_size: Positive | None = Field(
        None, description="triplets per backward pass; null is as many as fit, chosen when a run begins and kept"
    )

    @field_validator("tasks")
    @classmethod
    def _distinct(cls, tasks: list[Task]) -> list[Task]:
        if len(set(tasks)) < len(tasks):
            raise ValueError("a task is given twice")
        return tasks


class Checkpoint(Section):
    """When states are saved and how many are kept."""

    every: Positive = Field(100, description="optimiser steps between checkpoints; the last step always has one")
    keep: Positive = Field(2, description="newest checkpoints that stay on disk")
    best: str | None = Field(
        None,
        description="also keep the best at a reading: a held-out score as task/score, or pareto for both abilities",
    )


class Tracking(Section):
    """What is logged besides metrics.jsonl, and how often samples are drawn."""

    trackers: list[str] = Field([], description="trackers that accelerate knows, such as tensorboard or wandb")
    samples_every: Positive = Field(50, description="steps between drawings and answers of fixed held-out items")
    rollouts_every: Positive = Field(50, description="steps between recorded rollouts")
    report_every: Positive = Field(50, description="steps between two versions of the run's page, report.html")
    gradients_every: Positive = Field(50, description="steps between looks at each task's own gradient")


class Distributed(Section):
    """How several processes share the work; how many there are is the launcher's to say."""

    strategy: Literal["ddp", "fsdp"] = Field(
        "ddp", description="whole weights in every process, or weights and optimiser in shards (FSDP2)"
    )


class Probes(Section):
    """Held-out items drawn and answered before, during and after training."""

    split: str = Field("test", description="the held-out part of the data")
    items: Annotated[Int, Field(ge=2)] = Field(64, description="held-out triplets per task")
    every: Positive = Field(100, description="steps between readings; the start and the end are always read")
    temperature: Annotated[Float, Field(ge=0, lt=1)] = Field(
        0.0, description="of the second reading, beside the one at the training temperature"
    )
    rewards: Rubrics = Field(Rubrics(), description="what is measured; need not be what is trained on")

    def readings(self, task: Task) -> list[str]:
        """What is read of a task, as task/score."""
        return [f"{task}/{spec.name}" for spec in getattr(self.rewards, task)]


class Eval(Section):
    """Probes while training, and the benchmarks of `corl eval`."""

    probes: Probes | None = None
    benchmarks: dict[str, dict[str, Any]] = Field(
        {}, description="what `corl eval suite` runs, in this order, and each one's own options"
    )
    instruction: Instruction | None = Field(
        None, description="after each question, as under data; null is what the checkpoint was trained with"
    )
    t2i: Drawing = Drawing()
    mm2t: Answering = Answering()
    judge: Judge | None = Field(None, description="who scores where a benchmark asks for a judge")
    batch_size: Positive = Field(64, description="drawings or answers made at once, by each process")


class Study(Section):
    """What `corl study` compares, besides the recipe it stands in."""

    seeds: list[Int] = Field([0, 1, 2], min_length=1, description="every training is done once for each")
    cycle: Cycle = Field(Cycle(), description="turns of the paradigm that trains the tasks by turns")
    refined: dict[str, Any] = Field({}, description="keys of the recipe that are others in stage 2")
    sft: dict[str, Any] = Field({}, description="keys of the recipe that are others in supervised training")

    @field_validator("seeds")
    @classmethod
    def _distinct(cls, seeds: list[int]) -> list[int]:
        if len(set(seeds)) < len(seeds):
            raise ValueError("a seed is given twice")
        return seeds


class Recipe(Section):
    """One run. Each command reads its own sections and the shared ones."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="of the run's folder: runs/NAME")
    notes: str = Field("", description="what a reader should know before using it")
    seed: Int = Field(0, description="of the data's order and all sampling; the same seed gives the same run")
    model: Model = Model()
    data: Data = Data()
    prepare: Prepare = Prepare()
    sampling: SamplingSection = SamplingSection()
    rewards: Rubrics = Rubrics()
    algo: Algo = Algo()
    optim: Optim = Optim()
    train: Train = Train()
    checkpoint: Checkpoint = Checkpoint()
    tracking: Tracking = Tracking()
    distributed: Distributed = Distributed()
    eval: Eval = Eval()
    study: Study = Study()

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if faults := disagreements(self):
            raise ValueError("\n".join(faults))
        return self

    def compared(self) -> list[str]:
        """The held-out readings, as task/score, that say which checkpoint is best; empty where nothing does."""
        best, probes = self.checkpoint.best, self.eval.probes
        read = [probes.readings(task) if probes else [] for task in TASKS]
        if best == "pareto":
            return [names[0] for names in read] if all(read) else []
        return [best] if best and any(best in names for names in read) else []
