"""`corl doctor`: whether this machine has what corl can make use of."""

import typer

from corl_cli.cli.common import Json, table


def doctor(as_json: Json = False) -> None:
    """Look at this machine. Libraries, GPU, and what each reward needs, with what to do about what is not there."""
    from dataclasses import asdict

    from corl_cli.pipelines.doctor import diagnose

    findings = diagnose()
    if as_json:
        table([asdict(finding) for finding in findings], as_json=True)
        return
    table([{"what": f.name, "state": f.state, "found": f.detail, "for": f.purpose} for f in findings])
    remedies = [f"{finding.name}: {finding.remedy}" for finding in findings if finding.remedy]
    if remedies:
        typer.echo("\nWhat to do, where you need it:\n" + "\n".join(f"  {remedy}" for remedy in remedies))
