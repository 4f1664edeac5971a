"""The sections of a recipe that say how benchmarks are drawn, answered and judged."""

from typing import Annotated

from pydantic import Field, field_validator

from corl_cli.core.section import Float, Int, Positive, Section, Share, Temperature


class Drawing(Section):
    """How images are drawn for a benchmark; the defaults are the paper's."""

    images: Positive | None = Field(None, description="drawings of each prompt; null is what the benchmark asks for")
    temperature: Temperature = 1.0
    top_p: Share = 1.0
    cfg_weight: Annotated[Float, Field(ge=1)] = Field(5.0, description="classifier-free guidance; 1 is none")


class Answering(Section):
    """How questions of a benchmark are answered; greedy, as in the paper."""

    temperature: Temperature = Field(0.0, description="0 is greedy")
    top_p: Share = 1.0
    max_new_tokens: Positive = Field(512, description="longest answer; less where the model's context is shorter")


class Price(Section):
    """What a judge costs, in dollars for a million tokens."""

    input: Annotated[Float, Field(ge=0)]
    output: Annotated[Float, Field(ge=0)]


class Judge(Section):
    """A model behind an OpenAI-compatible endpoint that scores images or answers."""

    base_url: str = Field("https://api.openai.com/v1", description="up to and without /chat/completions")
    model: str = Field(min_length=1, description="the endpoint's name of the model")
    key_variable: str | None = Field("OPENAI_API_KEY", description="environment variable with the key; null for none")
    concurrency: Positive = Field(8, description="calls under way at once, of each process")
    timeout: Annotated[Float, Field(gt=0)] = Field(120.0, description="seconds for one answer")
    retries: Annotated[Int, Field(ge=0)] = Field(6, description="further attempts after 429, 5xx and time-outs")
    max_tokens: Positive = Field(1024, description="longest answer")
    price: Price | None = Field(None, description="for an estimate of the cost before the first call")

    @field_validator("base_url")
    @classmethod
    def _no_secret(cls, url: str) -> str:
        if "@" in url.partition("://")[2].partition("/")[0]:
            raise ValueError("a name or password does not belong here, where it would be kept; use key_variable")
        return url
