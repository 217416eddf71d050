"""TLS between TaskFlow's processes: each side shows a certificate of the same authority (docs/adr/0016)."""

import grpc

from services.platform.config import Settings


def client_credentials(settings: Settings) -> grpc.ChannelCredentials | None:
    """For calls to a service; None where the settings have no certificates. Raises OSError."""
    files = _files(settings)
    if files is None:
        return None
    authority, key, certificate = files
    return grpc.ssl_channel_credentials(authority, key, certificate)


def server_credentials(settings: Settings) -> grpc.ServerCredentials | None:
    """For a service, which refuses callers without a certificate; None like above. Raises OSError."""
    files = _files(settings)
    if files is None:
        return None
    authority, key, certificate = files
    return grpc.ssl_server_credentials([(key, certificate)], authority, require_client_auth=True)


def _files(settings: Settings) -> tuple[bytes, bytes, bytes] | None:
    """The contents of authority, key and certificate."""
    authority, key, certificate = (
        settings.service_tls_ca,
        settings.service_tls_key,
        settings.service_tls_cert,
    )
    if authority is None or key is None or certificate is None:
        return None
    return authority.read_bytes(), key.read_bytes(), certificate.read_bytes()
