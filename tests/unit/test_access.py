"""The table of roles and RPCs is complete: an RPC without a row, or a row without an RPC, fails here."""

from google.protobuf import descriptor_pool

import services.platform.server
from services.platform.access import ACCESS, Access
from taskflow.event.v1 import dead_letter_service_pb2
from taskflow.notification.v1 import internal_service_pb2 as notification_internal
from taskflow.task.v1 import internal_service_pb2 as task_internal

_INTERNAL_MODULES = (notification_internal, task_internal, dead_letter_service_pb2)


def _methods_in_protos() -> dict[str, bool]:
    """Every RPC of taskflow.*, and whether its service is internal."""
    pool = descriptor_pool.Default()
    found = {}
    for module in (*_INTERNAL_MODULES, *services.platform.server._DESCRIBED):
        file = pool.FindFileByName(module.DESCRIPTOR.name)
        for service in file.services_by_name.values():
            for method in service.methods:
                internal = service.name.endswith("InternalService")
                found[f"/{service.full_name}/{method.name}"] = internal
    return found


def test_every_rpc_has_a_row_and_every_row_an_rpc() -> None:
    rows = {method for method in ACCESS if method.startswith("/taskflow.")}
    assert rows == set(_methods_in_protos())


def test_internal_services_are_for_services_and_nothing_else_is() -> None:
    for method, internal in _methods_in_protos().items():
        assert (ACCESS[method] is Access.SERVICE) == internal, method


def test_only_what_the_contract_names_is_open() -> None:
    opened = {
        method.rpartition("/")[2]
        for method, access in ACCESS.items()
        if access is Access.OPEN and method.startswith("/taskflow.")
    }
    assert opened == {"Register", "Login", "RefreshToken", "GetSigningKeys"}
