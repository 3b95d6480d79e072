"""The IAM policies and the template that we hand out, against AWS's lists of rights and schemas, offline: cfn-lint."""

from __future__ import annotations

import importlib.util
import inspect
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from cfnlint.api import ManualArgs, lint

from station.activator import function
from station.aws.policies import Judgement, judge
from station.aws.registry import Registry

ROOT = Path(__file__).parent.parent
AWS = ROOT / "config" / "aws"
ARN = "arn:aws:iot:us-east-1:000000000000"
POLICIES = sorted(AWS.glob("*.json"))
VALUES = {"REGION": "eu-west-1", "ACCOUNT": "123456789012", "CA_CERTIFICATE_ID": "0" * 64, "BUCKET": "some-bucket"}


@pytest.fixture(scope="session")
def reference() -> dict[str, Any]:
    """AWS's service authorization reference: by service, actions with the kinds of resource that limit them."""
    spec = importlib.util.find_spec("cfnlint")
    assert spec is not None
    assert spec.origin is not None
    found: dict[str, Any] = json.loads(
        Path(spec.origin).with_name("data").joinpath("AdditionalSpecs", "Policies.json").read_text()
    )
    return {
        name: {"Resources": one["Resources"], "Actions": {key.lower(): to for key, to in one["Actions"].items()}}
        for name, one in found.items()
        if name in {"iot", "s3", "iam"}
    }


def filled(text: str) -> str:
    for name, value in VALUES.items():
        text = text.replace(name, value)
    return text


def listed(value: object) -> list[str]:
    return [str(one) for one in value] if isinstance(value, list) else [str(value)]


def misfits(document: dict[str, Any], reference: dict[str, Any]) -> Iterator[str]:
    """Each right that AWS does not know, or that stands on other resources than AWS looks at for it."""
    for statement in document["Statement"]:
        resources, used = listed(statement["Resource"]), set()
        for action in listed(statement["Action"]):
            service, _, name = action.partition(":")
            if (known := reference[service]["Actions"].get(name.lower())) is None:
                yield f"{action} is no action"
                continue
            kinds = [reference[service]["Resources"][kind] for kind in known.get("Resources", ())]
            forms = [form.replace("${Partition}", "aws") for kind in kinds for form in kind["ARNFormats"]]
            patterns = [re.sub(r"\$\{\w+\}", "[^:]*", form) for form in forms] or [r"\*"]
            fitting = {one for one in resources if any(re.fullmatch(pattern, one) for pattern in patterns)}
            if not fitting:
                yield f"{action} on {resources}: AWS looks at {forms or 'no resource'}"
            used |= fitting
        yield from (f"{one} limits nothing in {statement['Sid']}" for one in resources if one not in used)


@pytest.mark.parametrize("file", POLICIES, ids=lambda file: file.name)
def test_each_right_stands_on_what_aws_limits_it_by(file: Path, reference: dict[str, Any]) -> None:
    document = json.loads(filled(file.read_text()))
    assert document["Version"] == "2012-10-17"
    assert all(one["Effect"] == "Allow" for one in document["Statement"])
    assert list(misfits(document, reference)) == []


@pytest.mark.parametrize(
    ("action", "resource", "says"),
    [
        ("iot:ActivateCertificate", "*", "is no action"),
        ("iot:AttachThingPrincipal", "*", "AWS looks at"),
        ("iot:ListCertificatesByCA", "arn:aws:iot:eu-west-1:123456789012:cacert/0", "no resource"),
        (["iot:AttachPolicy"], ["arn:aws:iot:r:1:policy/p", "arn:aws:iot:r:1:cert/*"], "policy/p limits nothing"),
    ],
)
def test_a_right_on_the_wrong_resource_would_be_found(
    action: Any, resource: Any, says: str, reference: dict[str, Any]
) -> None:
    document = {"Statement": [{"Sid": "S", "Action": action, "Resource": resource}]}
    assert says in "; ".join(misfits(document, reference))


def complaints(template: str) -> list[str]:
    # I4010 asks for prose about the architecture in CloudFormation's metadata: that is in docs/activation.md.
    config = ManualArgs(ignore_checks=["I4010"], include_checks=["I"], regions=["eu-west-1"])
    return [f"{found.rule.id} {found.message}" for found in lint(template, config=config)]


def test_the_template_and_the_policies_are_without_a_finding() -> None:
    assert complaints((AWS / "activator.yaml").read_text()) == []
    documents = {file.stem.title().replace("-", ""): json.loads(filled(file.read_text())) for file in POLICIES}
    whole = json.dumps(documents["ActivatorPolicy"])
    documents["Broken"] = json.loads(whole.replace("iot:UpdateCertificate", "iot:UpdateCertificat"))
    made = {
        name: {"Type": "AWS::IAM::ManagedPolicy", "Properties": {"PolicyDocument": document}}
        for name, document in documents.items()
    }
    (one,) = complaints(json.dumps({"AWSTemplateFormatVersion": "2010-09-09", "Resources": made}))
    assert "updatecertificat'" in one.lower()


class Loader(yaml.SafeLoader):
    """YAML with CloudFormation's short functions, each as what it is given."""


def _given(loader: yaml.SafeLoader, _suffix: str, node: yaml.Node) -> Any:
    return loader.construct_sequence(node) if isinstance(node, yaml.SequenceNode) else node.value


Loader.add_multi_constructor("!", _given)


def as_in_the_template(statement: dict[str, Any]) -> tuple[list[str], list[str]]:
    """Actions and resources, in the template's words."""
    words = {"arn:aws:": "arn:${AWS::Partition}:", "REGION": "${AWS::Region}", "ACCOUNT": "${AWS::AccountId}"}
    words |= {"policy/station-device": "policy/${PolicyName}"}
    words |= {"arn:${AWS::Partition}:s3:::BUCKET": "${Feed.Arn}"}
    resources = listed(statement["Resource"])
    for ours, theirs in words.items():
        resources = [one.replace(ours, theirs) for one in resources]
    return listed(statement["Action"]), [one.removeprefix("${").removesuffix("}") for one in resources]


def test_the_template_calls_this_function_with_the_rights_of_the_policy_file() -> None:
    template = yaml.load((AWS / "activator.yaml").read_text(), Loader)  # noqa: S506 - a SafeLoader
    resources = template["Resources"]
    function_ = resources["Function"]["Properties"]
    assert function_["Handler"] == f"{function.__name__}.{function.handler.__name__}"
    assert set(function_["Environment"]["Variables"]) <= {
        *("CA_CERTIFICATE_ID", "POLICY", "THING_TYPE", "BUCKET", "PREFIX")
    }
    assert function_["ReservedConcurrentExecutions"] == function.INSTANCES  # who share the account's quotas
    statements = resources["Role"]["Properties"]["Policies"][0]["PolicyDocument"]["Statement"]
    alone = json.loads((AWS / "activator-policy.json").read_text())["Statement"]
    rights = {one["Sid"]: as_in_the_template(one) for one in statements if one["Sid"] != "Log"}
    assert rights == {one["Sid"]: as_in_the_template(one) for one in alone}
    assert resources["Strangers"]["Properties"]["FilterPattern"] == "{ $.alarm IS TRUE }"


def calls_of(method: str) -> set[str]:
    """The operations behind a method of the registry, through its own helpers."""
    text = inspect.getsource(getattr(Registry, method))
    found = set(re.findall(r'_calls\(\s*"([a-z_]+)"', text))
    return found.union(*(calls_of(name) for name in re.findall(r"self\.(_[a-z_]+)\(", text) if name != "_calls"))


def test_the_activator_s_rights_are_the_calls_that_it_makes_and_no_other() -> None:
    texts = "".join(file.read_text() for file in (ROOT / "station" / "activator").glob("*.py"))
    made = set().union(*(calls_of(method) for method in re.findall(r"\bregistry\.([a-z_]+)\(", texts)))
    document = json.loads((AWS / "activator-policy.json").read_text())
    allowed = {action for one in document["Statement"] for action in listed(one["Action"])}
    own = {action.removeprefix("iot:").lower() for action in allowed if action.startswith("iot:")}
    assert own == {name.replace("_", "") for name in made}
    assert {"iot:UpdateCertificate", "s3:GetObject", "s3:ListBucket"} <= allowed
    assert {one.partition(":")[0] for one in allowed} == {"iot", "s3"}


@pytest.mark.parametrize("file", POLICIES, ids=lambda file: file.name)
def test_each_policy_file_names_no_account(file: Path) -> None:
    assert not re.search(r"(?<!\d)\d{12}(?!\d)", file.read_text())


OWN = {"Effect": "Allow", "Action": "iot:Connect", "Resource": f"{ARN}:client/${{iot:Connection.Thing.ThingName}}"}
TOPIC = {"Effect": "Allow", "Action": ["iot:Publish"], "Resource": [f"{ARN}:topic/${{iot:ClientId}}/*"]}


@pytest.mark.parametrize(
    ("statements", "action", "resource", "judged"),
    [
        ([OWN], "iot:Connect", "client/SN-1", Judgement.ALLOWED),
        ([OWN], "iot:Publish", "topic/SN-1/hello", Judgement.DENIED),
        ([OWN, TOPIC], "iot:Publish", "topic/SN-1/hello", Judgement.ALLOWED),
        ([OWN, TOPIC], "iot:Publish", "topic/SN-2/hello", Judgement.DENIED),
        ([{**TOPIC, "Action": "iot:*"}], "iot:Publish", "topic/SN-1/a/b", Judgement.ALLOWED),
        ([{**TOPIC, "Action": "IOT:publish"}], "iot:Publish", "topic/SN-1/a", Judgement.ALLOWED),
        ([OWN, {**OWN, "Effect": "Deny", "Resource": "*"}], "iot:Connect", "client/SN-1", Judgement.DENIED),
        ([{**OWN, "Resource": f"{ARN}:client/SN-?"}], "iot:Connect", "client/SN-1", Judgement.ALLOWED),
        ([{**OWN, "Resource": f"{ARN}:client/SN-.*"}], "iot:Connect", "client/SN-1", Judgement.DENIED),
        ([{**OWN, "Resource": f"{ARN}:client/${{iot:Other}}"}], "iot:Connect", "client/SN-1", Judgement.UNCLEAR),
        (
            [{**OWN, "Condition": {"Bool": {"iot:Connection.Thing.IsAttached": ["true"]}}}],
            "iot:Connect",
            "client/SN-1",
            Judgement.ALLOWED,
        ),
        (
            [{**OWN, "Condition": {"IpAddress": {"aws:SourceIp": "10.0.0.0/8"}}}],
            "iot:Connect",
            "client/SN-1",
            Judgement.UNCLEAR,
        ),
        ([], "iot:Connect", "client/SN-1", Judgement.DENIED),
    ],
)
def test_a_policy_is_read_as_aws_reads_it(
    statements: list[dict[str, Any]], action: str, resource: str, judged: Judgement
) -> None:
    document = json.dumps({"Version": "2012-10-17", "Statement": statements})
    assert judge(document, action, f"{ARN}:{resource}", "SN-1") is judged


@pytest.mark.parametrize("document", ["", "[]", "{", '{"Statement": 5}', '{"Statement": [7, {"Action": 3}]}'])
def test_what_is_no_policy_allows_nothing(document: str) -> None:
    assert judge(document, "iot:Connect", f"{ARN}:client/SN-1", "SN-1") is Judgement.DENIED
