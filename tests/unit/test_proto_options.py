"""Method and event options in the protos are complete, consistent, and as the contract says."""

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message_factory import GetMessageClass

from services.platform.events import types as event_types
from services.platform.events.types import UndeclaredEvent
from services.platform.rpc import methods
from services.platform.rpc.methods import METHODS, UndeclaredMethod
from taskflow.event.v1 import event_pb2
from taskflow.event.v1.event_pb2 import Event
from taskflow.options.v1 import options_pb2
from taskflow.options.v1.options_pb2 import MethodRules


def test_only_methods_named_in_the_contract_are_open() -> None:
    opened = {path for path, method in METHODS.items() if method.access == options_pb2.ACCESS_OPEN}
    assert {path.rpartition("/")[2] for path in opened} == {
        "Register",
        "Login",
        "RefreshToken",
        "GetSigningKeys",
    }


def test_only_internal_services_require_service_access() -> None:
    for method in METHODS.values():
        assert method.internal == method.service.endswith("InternalService"), method.path


@pytest.mark.parametrize(
    ("rules", "complaint"),
    [
        (MethodRules(), "who may call it"),
        (MethodRules(access=options_pb2.ACCESS_OPEN), "whether a repeat is safe"),
        (
            MethodRules(access=options_pb2.ACCESS_VIEWER, repeat=options_pb2.REPEAT_SAFE),
            "needs a token scope",
        ),
        (
            MethodRules(
                access=options_pb2.ACCESS_OPEN,
                repeat=options_pb2.REPEAT_SAFE,
                scope=options_pb2.SCOPE_ANY,
            ),
            "unless it is open",
        ),
        (
            MethodRules(
                access=options_pb2.ACCESS_OPEN,
                repeat=options_pb2.REPEAT_SAFE_WITH_FIELD,
                repeat_field="nothing",
            ),
            "name a field of its request",
        ),
        (
            MethodRules(access=options_pb2.ACCESS_SERVICE, repeat=options_pb2.REPEAT_SAFE),
            "named *InternalService",
        ),
    ],
)
def test_an_rpc_with_incomplete_or_contradictory_options_is_refused(
    rules: MethodRules, complaint: str
) -> None:
    with pytest.raises(UndeclaredMethod, match=complaint.replace("*", r"\*")):
        methods._method("/test.Odd/Call", _method_with(rules), "task")


def _method_with(rules: MethodRules) -> MethodDescriptor:
    file = descriptor_pb2.FileDescriptorProto(name="odd.proto", package="test", syntax="proto3")
    file.message_type.add(name="CallRequest")
    service = file.service.add(name="OddService")
    method = service.method.add(
        name="Call", input_type=".test.CallRequest", output_type=".test.CallRequest"
    )
    method.options.Extensions[options_pb2.method].CopyFrom(rules)
    pool = descriptor_pool.DescriptorPool()
    for needed in (descriptor_pb2.DESCRIPTOR, options_pb2.DESCRIPTOR):
        pool.AddSerializedFile(needed.serialized_pb)
    file.dependency.append(options_pb2.DESCRIPTOR.name)
    pool.AddSerializedFile(file.SerializeToString())
    return pool.FindServiceByName("test.OddService").methods[0]


def test_every_event_message_declares_its_type_and_no_type_is_declared_twice() -> None:
    declared = [
        name
        for field in Event.DESCRIPTOR.oneofs_by_name["facts"].fields
        for name in event_types.types(GetMessageClass(field.message_type))  # type: ignore[arg-type]
    ]
    assert len(declared) == len(set(declared))
    assert all(name.count(".") == 1 for name in declared)


def test_subjects_are_derived_from_the_event_message() -> None:
    assert event_types.subjects(event_pb2.JobChanged) == [
        "taskflow.*.job.created",
        "taskflow.*.job.updated",
    ]


def test_an_event_whose_message_does_not_declare_its_type_is_refused() -> None:
    event = Event(type="task.created", task_created=event_pb2.TaskCreated())
    event_types.check(event)
    for wrong in (
        Event(type="task.createt", task_created=event_pb2.TaskCreated()),
        Event(type="task.created", task_deleted=event_pb2.TaskDeleted()),
        Event(type="task.created"),
    ):
        with pytest.raises(UndeclaredEvent):
            event_types.check(wrong)
