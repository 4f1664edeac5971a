"""What every section of a recipe is made of."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, Strict

# Strict, because pydantic otherwise takes True and "1" for 1.
Int = Annotated[int, Strict()]
Float = Annotated[float, Strict()]
Positive = Annotated[Int, Field(ge=1)]
Temperature = Annotated[Float, Field(ge=0)]
Share = Annotated[Float, Field(gt=0, le=1)]


class Section(BaseModel):
    """A part of a recipe: frozen, and unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
