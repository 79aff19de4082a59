"""``doctor [module:app]``: checks an application and its environment, without changing either."""

from __future__ import annotations

import argparse
import json
import sys

import web

from webpy_socketio.cli import named_application
from webpy_socketio.cli.checks import (
    LEVELS,
    Check,
    CheckContext,
    Finding,
    configuration,
    environment,
    external,
    keywords,
    ok,
    problem,
    program,
    templates,
)
from webpy_socketio.cli.importer import ImportFailed
from webpy_socketio.exceptions import ConfigurationError
from webpy_socketio.runtime import default_runtime

__all__ = ["EXAMPLE", "HELP", "NAME", "add_arguments", "run"]

NAME = "doctor"
HELP = "check an application and its environment for mistakes, and suggest fixes"
EXAMPLE = "doctor chat:app"

#: The order of the report.
CHECKS: tuple[Check, ...] = (
    environment.versions,
    environment.loop,
    environment.native,
    environment.client,
    program.patching,
    program.urls,
    program.debug,
    program.logging,
    templates.templates,
    configuration.settings,
    keywords.keywords,
    configuration.origins,
    configuration.plugins,
    environment.open_files,
    external.address,
    external.tls,
    external.redis,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "application",
        nargs="?",
        help="module:name of the web.py application, or its file (chat.py); it is imported, so the "
        "block under `if __name__ ...` is only parsed, not run",
    )
    named_application.add_settings(parser)
    parser.add_argument("--host", help="address to listen on (SOCKETIO_HOST)")
    parser.add_argument("--port", type=int, help="port to listen on (SOCKETIO_PORT)")
    parser.add_argument("--certfile", help="TLS certificate")
    parser.add_argument("--keyfile", help="private key of the certificate")
    parser.add_argument("--json", action="store_true", help="write JSON")


def run(arguments: argparse.Namespace) -> int:
    """Run all checks; the exit status is 1 if there is a problem."""
    context, findings, details = _import_application(arguments)
    for check in CHECKS:
        findings += check(context)
    counts = {level: sum(one.level == level for one in findings) for level in LEVELS}
    if arguments.json:
        report = {
            "application": arguments.application,
            "findings": [one._asdict() for one in findings],
            "warnings": counts["warning"],
            "problems": counts["problem"],
        }
        sys.stdout.write(json.dumps(report, indent=2) + "\n")
    else:
        _print(findings, counts, named=arguments.application is not None)
        if details:
            sys.stdout.flush()
            sys.stderr.write(f"\n{details}")
    return 1 if counts["problem"] else 0


def _import_application(
    arguments: argparse.Namespace,
) -> tuple[CheckContext, list[Finding], str]:
    """Import the application, which may change the settings, before any check runs."""
    found, findings, details = None, [], ""
    if arguments.application is not None:
        try:
            found = named_application.find(arguments.application, arguments.settings)
        except ImportFailed as error:
            findings.append(problem("application", error.summary, "fix this first"))
            details = error.details
        except ConfigurationError as error:
            findings.append(problem("application", str(error)))
        else:
            findings.append(_usable(found))
    else:
        named_application.use_settings(arguments.settings)
    wrong = {one.name for one in default_runtime.sources.given(web.config) if one.wrong is not None}
    config = {name: value for name, value in web.config.items() if name not in wrong}
    applications = [] if found is None else named_application.applications(found)
    return (
        CheckContext(arguments, default_runtime.sources.resolve({}, config), found, applications),
        findings,
        details,
    )


def _usable(found: named_application.NamedApplication) -> Finding:
    name = f"{found.module.__name__}:{found.name}"
    try:
        named_application.wsgi(found.application)
    except ConfigurationError as error:
        return problem("application", f"{name}: {error}")
    return ok("application", f"{name} can be imported")


def _print(findings: list[Finding], counts: dict[str, int], named: bool) -> None:
    for one in findings:
        remedy = f"; {one.remedy}" if one.remedy else ""
        text = " ".join(f"{one.text}{remedy}".split())
        sys.stdout.write(f"{one.level:<8} {one.subject:<11} {text}\n")
    problems, warnings = counts["problem"], counts["warning"]
    sys.stdout.write(
        f"\n{problems} problem{'' if problems == 1 else 's'}, "
        f"{warnings} warning{'' if warnings == 1 else 's'}\n"
    )
    if not named:
        sys.stdout.write("To check an application: webpy-socketio doctor module:name\n")
