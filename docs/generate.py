"""Writes the reference pages that are made from the code: `make docs`. A test fails when they are out of date."""

from __future__ import annotations

from pathlib import Path

from pydantic import SecretStr

from clusterodm.settings import Settings, env_name, flag_name

HERE = Path(__file__).parent
_NOTE = "<!-- Written by `make docs` from the code; change the code, not this page. -->"


def settings_page() -> str:
    """docs/settings.md."""
    lines = [
        _NOTE,
        "# Settings",
        "",
        "Every setting is a flag of `clusterodm serve`, an environment variable, and a key of the JSON file that",
        "`--config` names (the flag's name without the dashes). Flags win over the environment, the environment over",
        "the file. An unknown key or a bad value is refused at the start. Secrets are better kept in the environment",
        "or the file: everybody on the machine can read command lines.",
        "",
        "| flag | variable | default | what it does |",
        "|---|---|---|---|",
    ]
    for name, field in Settings.model_fields.items():
        default = field.get_default(call_default_factory=True)
        shown = "" if isinstance(default, SecretStr) or default in ("", []) else f"`{default}`"
        lines.append(f"| `--{flag_name(name)}` | `{env_name(name)}` | {shown} | {field.description} |")
    return "\n".join(lines) + "\n"


PAGES = {"settings.md": settings_page}


def main() -> None:
    """Write all pages."""
    for name, make in PAGES.items():
        (HERE / name).write_text(make())


if __name__ == "__main__":
    main()
