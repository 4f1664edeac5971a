"""The names of sources of triplets, and what they are bound to."""

SOURCES: dict[str, str] = {
    "world": "corl_cli.data.sources.world:World",
}
