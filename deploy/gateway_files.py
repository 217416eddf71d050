"""Writes Envoy's configuration for containers, from the same template as the local one.

Run it with `python -m deploy.gateway_files`. With `--check`, it only compares. With `--service-tls FOLDER`, the gateway
speaks TLS to the services, with tls.crt, tls.key and ca.crt from that folder of its container.
"""

import argparse
import sys
from pathlib import Path

from deploy.local.envoy import ServiceTls, rendered
from services.platform.config import Settings

_DEPLOY = Path(__file__).resolve().parent
# Path, inside the container, of the file that names the TLS certificate and key.
_CERTIFICATE = "/etc/envoy/certificate.yaml"
# The gateway's port for health checks and metrics. Not a setting, because nothing else runs in the gateway's container.
OPERATIONS_PORT = 9902

_HEAD = "# Made from deploy/envoy/envoy.yaml.j2 by `python -m deploy.gateway_files`.\n"


def files(service_tls: str | None = None) -> dict[Path, str]:
    """The content of each file: without TLS for compose; with TLS and without reflection for Kubernetes."""
    tls = service_tls and ServiceTls(
        f"{service_tls}/tls.crt", f"{service_tls}/tls.key", f"{service_tls}/ca.crt"
    )
    return {
        _DEPLOY / "container" / "envoy.yaml": _HEAD + _rendered(None, tls or None, reflection=True),
        _DEPLOY / "kubernetes" / "base" / "envoy.yaml": (
            _HEAD + _rendered(_CERTIFICATE, tls or None, reflection=False)
        ),
    }


def _rendered(certificate: str | None, service_tls: ServiceTls | None, *, reflection: bool) -> str:
    # The default settings, ignoring this machine's environment.
    settings = Settings.model_construct(host="0.0.0.0", reflection=reflection)
    return rendered(
        settings,
        # Services have the same names in compose and in Kubernetes, and listen on their default ports.
        {
            "auth": [("auth", settings.auth_port)],
            "task": [("task", settings.task_port)],
            "notification": [("notification", settings.notification_port)],
        },
        discovery="STRICT_DNS",
        certificate=certificate,
        operations_port=OPERATIONS_PORT,
        service_tls=service_tls,
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m deploy.gateway_files")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--service-tls", metavar="FOLDER")
    options = parser.parse_args()
    for file, text in files(options.service_tls).items():
        if not options.check:
            file.write_text(text)
        elif not file.exists() or file.read_text() != text:
            sys.exit(f"{file.name} is out of date; run `python -m deploy.gateway_files`")


if __name__ == "__main__":
    main()
