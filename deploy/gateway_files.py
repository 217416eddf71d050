"""Writes Envoy's configuration for containers, from the template of the local one: `python -m deploy.gateway_files`.

With `--check`, only compares.
"""

import sys
from pathlib import Path

from deploy.local.envoy import rendered
from services.platform.config import Settings

_DEPLOY = Path(__file__).resolve().parent
# Where it stands in the container, with the certificate's description beside it.
_CERTIFICATE = "/etc/envoy/certificate.yaml"
# Of no setting: nothing else runs in the gateway's container.
OPERATIONS_PORT = 9902

_HEAD = "# Made from deploy/envoy/envoy.yaml.j2 by `python -m deploy.gateway_files`.\n"


def files() -> dict[Path, str]:
    """What each file should say: in clear text for compose, with TLS and without reflection for Kubernetes."""
    return {
        _DEPLOY / "container" / "envoy.yaml": _HEAD + _rendered(None, reflection=True),
        _DEPLOY / "kubernetes" / "base" / "envoy.yaml": (
            _HEAD + _rendered(_CERTIFICATE, reflection=False)
        ),
    }


def _rendered(certificate: str | None, *, reflection: bool) -> str:
    # The defaults, whatever this machine's environment says.
    settings = Settings.model_construct(host="0.0.0.0", reflection=reflection)
    return rendered(
        settings,
        # Services have the same names in compose as in Kubernetes, and listen where they do by default.
        {
            "auth": [("auth", settings.auth_port)],
            "task": [("task", settings.task_port)],
            "notification": [("notification", settings.notification_port)],
        },
        discovery="STRICT_DNS",
        certificate=certificate,
        operations_port=OPERATIONS_PORT,
    )


def main() -> None:
    for file, text in files().items():
        if "--check" not in sys.argv[1:]:
            file.write_text(text)
        elif not file.exists() or file.read_text() != text:
            sys.exit(f"{file.name} is out of date; run `python -m deploy.gateway_files`")


if __name__ == "__main__":
    main()
