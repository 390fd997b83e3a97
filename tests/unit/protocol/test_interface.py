"""The protocol is CSI 1.13.0: the generated descriptors against a list of the published interface.

The list, csi-1.13.0-interface.tsv, has a line for every service, call, enum, value, message, field
and reserved number, with type, oneof and options. Both directions count: what is missing here, and
what is only here.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2
from google.protobuf.message import Message

from csi_driver.rpc._generated import csi_pb2, csi_pb2_grpc

LIST = Path(__file__).with_name("csi-1.13.0-interface.tsv")

Element = tuple[str, ...]


def published() -> list[Element]:
    """The lines of the list, each prefixed with the service, enum or message that it belongs to."""
    elements = []
    owner: Element = ()
    for line in LIST.read_text().splitlines():
        columns = tuple(line.strip(" ").split("\t"))
        if line.startswith(" "):
            elements.append(owner + columns)
        else:
            owner = columns[:2]
            elements.append(columns)
    return elements


def ours() -> list[Element]:
    """The generated descriptors in the form of the list."""
    protocol = descriptor_pb2.FileDescriptorProto()
    csi_pb2.DESCRIPTOR.CopyToProto(protocol)
    return [
        *(element for service in protocol.service for element in of_service(service)),
        *(element for enum in protocol.enum_type for element in of_enum(enum, "")),
        *(element for message in protocol.message_type for element in of_message(message, "")),
    ]


def of_service(service: descriptor_pb2.ServiceDescriptorProto) -> Iterator[Element]:
    owner = ("service", service.name)
    yield (*owner, option(service.options, "alpha_"))
    for call in service.method:
        answer = ("stream " if call.server_streaming else "") + relative(call.output_type)
        request = ("stream " if call.client_streaming else "") + relative(call.input_type)
        yield (*owner, "rpc", call.name, request, answer, option(call.options, "alpha_"))


def of_enum(enum: descriptor_pb2.EnumDescriptorProto, scope: str) -> Iterator[Element]:
    owner = ("enum", scope + enum.name)
    yield (*owner, option(enum.options, "alpha_"))
    for value in enum.value:
        yield (*owner, "value", value.name, str(value.number), option(value.options, "alpha_"))
    for span in enum.reserved_range:
        yield (*owner, "reserved", f"{span.start}-{span.end}")
    for name in enum.reserved_name:
        yield (*owner, "reserved", name)


def of_message(message: descriptor_pb2.DescriptorProto, scope: str) -> Iterator[Element]:
    name = scope + message.name
    owner = ("message", name)
    yield (*owner, option(message.options, "alpha_"))
    for field in message.field:
        oneof = (
            f"oneof {message.oneof_decl[field.oneof_index].name}"
            if field.HasField("oneof_index")
            else ""
        )
        marks = (option(field.options, "csi_secret"), option(field.options, "alpha_"))
        yield (
            *owner,
            "field",
            field.name,
            str(field.number),
            type_of(field, message),
            oneof,
            *marks,
        )
    for span in message.reserved_range:
        yield (
            *owner,
            "reserved",
            f"{span.start}-{span.end - 1}",
        )  # messages count the end as outside
    for reserved in message.reserved_name:
        yield (*owner, "reserved", reserved)
    for enum in message.enum_type:
        yield from of_enum(enum, f"{name}.")
    for nested in message.nested_type:
        if not nested.options.map_entry:
            yield from of_message(nested, f"{name}.")


def type_of(
    field: descriptor_pb2.FieldDescriptorProto, message: descriptor_pb2.DescriptorProto
) -> str:
    if not field.type_name:
        name = (
            descriptor_pb2.FieldDescriptorProto.Type.Name(field.type).removeprefix("TYPE_").lower()
        )
    else:
        name = relative(field.type_name)
        for nested in message.nested_type:
            if nested.options.map_entry and name.endswith(f".{nested.name}"):
                key, value = nested.field
                return f"map<{type_of(key, nested)},{type_of(value, nested)}>"
    repeated = field.label == descriptor_pb2.FieldDescriptorProto.LABEL_REPEATED
    return f"repeated {name}" if repeated else name


def relative(name: str) -> str:
    return name.removeprefix(".csi.v1.").removeprefix(".")


def option(options: Message, prefix: str) -> str:
    """The name of the marker that begins with `prefix`, or nothing: a column of the list."""
    names = [field.name for field, value in options.ListFields() if field.is_extension and value]
    return next((name for name in names if name.startswith(prefix)), "")


def test_nothing_of_the_published_interface_is_missing_or_different() -> None:
    assert sorted(set(published()) - set(ours())) == []


def test_nothing_is_there_that_is_not_published() -> None:
    assert sorted(set(ours()) - set(published())) == []


def test_no_element_stands_twice() -> None:
    assert len(ours()) == len(set(ours())) == len(published())


@pytest.mark.parametrize(
    ("marker", "number", "extends"),
    [
        ("alpha_enum", 1060, "EnumOptions"),
        ("alpha_enum_value", 1060, "EnumValueOptions"),
        ("csi_secret", 1059, "FieldOptions"),
        ("alpha_field", 1060, "FieldOptions"),
        ("alpha_message", 1060, "MessageOptions"),
        ("alpha_method", 1060, "MethodOptions"),
        ("alpha_service", 1060, "ServiceOptions"),
    ],
)
def test_a_marker_has_its_published_number(marker: str, number: int, extends: str) -> None:
    extension = csi_pb2.DESCRIPTOR.extensions_by_name[marker]
    assert extension.number == number
    assert extension.containing_type is getattr(descriptor_pb2, extends).DESCRIPTOR


def test_every_field_named_secrets_is_marked_as_a_secret_and_no_other() -> None:
    fields = [element for element in ours() if element[2:3] == ("field",)]
    marked = {(element[1], element[3]) for element in fields if "csi_secret" in element}
    assert marked == {(element[1], element[3]) for element in fields if element[3] == "secrets"}


def test_the_calls_are_those_that_grpc_will_route() -> None:
    calls = {f"/csi.v1.{element[1]}/{element[3]}" for element in ours() if element[2:3] == ("rpc",)}
    code = Path(csi_pb2_grpc.__file__).read_text()
    assert len(calls) == 36
    assert {call for call in calls if f"'{call}'" not in code} == set()
