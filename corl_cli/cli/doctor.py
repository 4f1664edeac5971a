"""`corl doctor`: whether this machine has what corl can make use of."""

from corl_cli.cli.common import Json, remedies, table


def doctor(as_json: Json = False) -> None:
    """Look at this machine. Libraries, GPU, and what each reward needs, with what to do about what is not there."""
    from dataclasses import asdict

    from corl_cli.pipelines.doctor import diagnose

    findings = diagnose()
    if as_json:
        table([asdict(finding) for finding in findings], as_json=True)
        return
    table([{"what": f.name, "state": f.state, "found": f.detail, "for": f.purpose} for f in findings])
    remedies(findings)
