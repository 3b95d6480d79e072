"""The provider's ceremony files: one reviewed YAML an act. A key that does not apply to the act is an error."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

from pydantic import Field, RootModel, model_validator

from station.config.guards import REHEARSAL, endpoint_problem
from station.config.loader import FilePath, Strict, read, validate
from station.config.settings import Simulator
from station.config.tokens import KeyUriText, Pin, SealSettings
from station.model import KeyType

_MAX_DAYS = 18_262  # 50 years
_Region: TypeAlias = Annotated[str, Field(pattern=r"^[a-z]{2}(-[a-z]+)+-[0-9]$")]
_Days: TypeAlias = Annotated[int, Field(ge=1, le=_MAX_DAYS)]
# AWS IoT: at most 50 tags a resource.
_TagKey: TypeAlias = Annotated[str, Field(pattern=r"^[A-Za-z0-9 _.:/=+@-]{1,128}$")]
_TagValue: TypeAlias = Annotated[str, Field(pattern=r"^[A-Za-z0-9 _.:/=+@-]{0,256}$")]


class Subject(Strict):
    """The CA's name."""

    common_name: Annotated[str, Field(min_length=1, max_length=64)]
    organization: Annotated[str, Field(min_length=1, max_length=64)]
    country: Annotated[str, Field(pattern=r"^[A-Z]{2}$")] | None = None


class ActSeal(SealSettings):
    """The seal that signs the minutes, and where its token's PIN is."""

    pin: Pin


class MinutesOutput(Strict):
    """What every act leaves: ``minutes`` as Markdown, and beside it the same as ``.json``."""

    minutes: FilePath

    @model_validator(mode="after")
    def _apart(self) -> MinutesOutput:
        paths = list(self.paths().values())
        if len(set(paths)) != len(paths):
            raise ValueError("two outputs have the same path; each has its own")
        if self.minutes.suffix != ".md":
            raise ValueError("minutes should end with .md; the same for machines is written beside them, as .json")
        return self

    def paths(self) -> dict[str, Path]:
        """Each output with its path, the minutes' JSON among them."""
        named = {name: value for name, value in dict(self).items() if isinstance(value, Path)}
        return {**named, "minutes_json": self.minutes.with_suffix(".json")}


class CertificateOutputs(MinutesOutput):
    """What the act leaves."""

    certificate: FilePath


class IssuingOutputs(CertificateOutputs):
    """What the act leaves; the CSR where the root's owner signs it elsewhere."""

    csr: FilePath | None = None


class RegisterOutputs(MinutesOutput):
    """What the act leaves."""

    registration: FilePath


class SealOutputs(MinutesOutput):
    """What the act leaves."""

    public: FilePath


class ActFile(Strict):
    """What every act says."""

    rehearsal: bool
    state: FilePath
    seal: ActSeal | None = None


class TokenAct(ActFile):
    """An act with a key in a token."""

    key: KeyUriText
    pin: Pin


def _says_what_it_is(common_name: str, *, rehearsal: bool) -> None:
    marked = REHEARSAL in common_name
    if rehearsal and not marked:
        raise ValueError(f"a rehearsal's common_name should contain {REHEARSAL}: no production station takes it then")
    if marked and not rehearsal:
        raise ValueError(f"the common_name says {REHEARSAL}; a production CA must not")


class RootAct(TokenAct):
    """Make the CA key in its token and certify it by itself."""

    act: Literal["root"]
    key_type: KeyType
    subject: Subject
    validity_days: _Days
    path_length: Annotated[int, Field(ge=0, le=2)] = 0
    outputs: CertificateOutputs

    @model_validator(mode="after")
    def _named(self) -> RootAct:
        _says_what_it_is(self.subject.common_name, rehearsal=self.rehearsal)
        return self


class ByCsr(Strict):
    """The root is elsewhere: the act writes a CSR, and goes on when the certificate is at ``issued``."""

    by: Literal["csr"]
    certificate: FilePath
    issued: FilePath


class ByKey(Strict):
    """The root's key is in reach: in the same token, or in another."""

    by: Literal["key"]
    certificate: FilePath
    key: KeyUriText
    pin: Pin
    validity_days: _Days


class IssuingAct(TokenAct):
    """Make an issuing CA under an offline root."""

    act: Literal["issuing"]
    key_type: KeyType
    subject: Subject
    path_length: Annotated[int, Field(ge=0, le=1)] = 0
    root: Annotated[ByCsr | ByKey, Field(discriminator="by")]
    outputs: IssuingOutputs

    @model_validator(mode="after")
    def _fits(self) -> IssuingAct:
        _says_what_it_is(self.subject.common_name, rehearsal=self.rehearsal)
        if (self.root.by == "csr") != (self.outputs.csr is not None):
            raise ValueError("outputs.csr stands with `by: csr`, and only there")
        if isinstance(self.root, ByKey) and self.root.key == self.key:
            raise ValueError("root.key is the issuing CA's own key; they are two")
        return self


class KeyFile(Strict):
    """The CA as its owner hands it over: PEM files."""

    key: FilePath
    certificate: FilePath
    passphrase: Pin | None = None


class ImportAct(TokenAct):
    """Take an existing CA key into the token, and prove that it is the certificate's."""

    act: Literal["import"]
    source: KeyFile
    outputs: CertificateOutputs


class Template(Strict):
    """A provisioning template (JITP): AWS IoT makes thing, policy and ACTIVE by itself at the first connection."""

    body: FilePath
    role_arn: Annotated[str, Field(pattern=r"^arn:aws[a-z-]*:iam::[0-9]{12}:role/[A-Za-z0-9_+=,.@/-]{1,512}$")]


class Registered(Strict):
    """What AWS IoT is told of a CA beside its certificate."""

    mode: Literal["DEFAULT", "SNI_ONLY"] = "DEFAULT"
    tags: Annotated[Mapping[_TagKey, _TagValue], Field(max_length=50)] = {}
    template: Template | None = None

    @model_validator(mode="after")
    def _own_tags(self) -> Registered:
        if any(key.lower().startswith("aws:") for key in self.tags):
            raise ValueError("a tag's key must not begin with aws: (AWS keeps those for itself)")
        return self


class RegisterAct(TokenAct, Registered):
    """Make AWS IoT know the CA: proof of possession, active, auto-registration on."""

    act: Literal["register"]
    certificate: FilePath
    region: _Region
    endpoint: Annotated[str, Field(pattern=r"^[a-z0-9.-]{1,253}$")] | None = None
    simulator: Simulator | None = None
    outputs: RegisterOutputs

    @model_validator(mode="after")
    def _all_or_nothing(self) -> RegisterAct:
        _at_a_simulator(self.simulator, rehearsal=self.rehearsal)
        if not self.rehearsal and self.endpoint is None:
            raise ValueError("needs `endpoint`: by it the account and region that are meant are known")
        if self.endpoint and not self.rehearsal and (problem := endpoint_problem(self.endpoint, self.region)):
            raise ValueError(f"endpoint {problem}")
        return self


class WaitingAct(ActFile):
    """An act that asks the record what still waits for a CA: stations' ledgers, a line's PostgreSQL, or both.

    ``line`` is a file (0600) whose one line is the database's URL, with a role that may only read.
    """

    ledgers: Annotated[tuple[FilePath, ...], Field(max_length=64)] = ()
    line: FilePath | None = None

    @property
    def asks(self) -> int:
        """How many records it asks."""
        return len(self.ledgers) + (self.line is not None)


class RotateOutputs(MinutesOutput):
    """What the act leaves; ``certificate`` and ``registration`` where it makes the new CA."""

    certificate: FilePath | None = None
    registration: FilePath | None = None


class NewByKey(Registered):
    """The act makes the new CA: its key in the token, certified by itself, registered beside the old one."""

    by: Literal["key"]
    key: KeyUriText
    pin: Pin
    key_type: KeyType
    subject: Subject
    validity_days: _Days
    path_length: Annotated[int, Field(ge=0, le=2)] = 0


class NewByRegistration(Strict):
    """The new CA was made and registered by acts of its own: an import, or an issuing CA under an offline root."""

    by: Literal["registration"]
    registration: FilePath


class RotateAct(WaitingAct):
    """Put a new CA in the place of an old one, which goes out of service when nothing waits for it any more."""

    act: Literal["rotate"]
    old: FilePath
    new: Annotated[NewByKey | NewByRegistration, Field(discriminator="by")]
    simulator: Simulator | None = None
    outputs: RotateOutputs

    @model_validator(mode="after")
    def _two(self) -> RotateAct:
        _at_a_simulator(self.simulator, rehearsal=self.rehearsal)
        made = isinstance(self.new, NewByKey)
        if {self.outputs.certificate is not None, self.outputs.registration is not None} != {made}:
            raise ValueError("outputs.certificate and outputs.registration stand with `by: key`, and only there")
        if isinstance(self.new, NewByKey):
            _says_what_it_is(self.new.subject.common_name, rehearsal=self.rehearsal)
        elif self.new.registration == self.old:
            raise ValueError("old and new are the same registration")
        if not self.asks:
            raise ValueError("needs `ledgers`, `line` or both: who else knows what waits for the old CA?")
        return self


class RetireAct(WaitingAct):
    """Take a CA out of service for good. Units that are ACTIVE go on; no new one of it is registered."""

    act: Literal["retire"]
    registration: FilePath
    # A CA whose key is compromised does not wait for its units; any other does.
    reason: Literal["ended", "compromised"]
    delete: bool = False
    simulator: Simulator | None = None
    outputs: MinutesOutput

    @model_validator(mode="after")
    def _asks_the_ledgers(self) -> RetireAct:
        _at_a_simulator(self.simulator, rehearsal=self.rehearsal)
        if (self.reason == "ended") != bool(self.asks):
            raise ValueError(
                "ledgers or line stand with `reason: ended`, and only there: a compromised CA waits for nobody"
            )
        return self


class SealAct(TokenAct):
    """Make the station's own signing key, apart from the CA's."""

    act: Literal["seal"]
    key_type: Literal[KeyType.P256, KeyType.RSA2048, KeyType.RSA3072, KeyType.RSA4096] = KeyType.P256
    outputs: SealOutputs

    @model_validator(mode="after")
    def _by_itself(self) -> SealAct:
        if self.seal is not None:
            raise ValueError("the minutes of this act are signed by the seal that it makes; leave `seal` out")
        return self


def _at_a_simulator(simulator: Simulator | None, *, rehearsal: bool) -> None:
    if (simulator is not None) != rehearsal:
        raise ValueError("a rehearsal is at a `simulator`, and only a rehearsal is")


AnyAct: TypeAlias = RootAct | IssuingAct | ImportAct | RegisterAct | RotateAct | RetireAct | SealAct
Act: TypeAlias = Annotated[AnyAct, Field(discriminator="act")]


class CeremonyFile(RootModel[Act]):
    """One file of ``ceremony/``: its ``act`` says which it is."""


def load_ceremony(path: Path) -> AnyAct:
    """Read one ceremony file.

    Raises:
        ConfigError: with every mistake that was found.
    """
    return validate(read(path), CeremonyFile).root
