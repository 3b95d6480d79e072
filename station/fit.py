"""Whether each product fits its board family and its CA: asked at start and by `station config check`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, cast

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from station.boards import family
from station.boards.images import reviewed
from station.ca import CertificateAuthority, load_ca_certificate
from station.config import Config
from station.credentials import Credentials, chosen_roots, longest_key
from station.family import Limits
from station.faults import Fault, FaultError
from station.model import FirstContact, KeyOrigin, Product

if TYPE_CHECKING:
    from station.model import PrivateKey


def check(config: Config) -> None:
    """See that whatever a run of each product would send can be held by its boards.

    Raises:
        FaultError: `Fault.PRODUCT_UNFIT` with a sentence for each product that does not fit: the limit, and the
            firmware's option that lifts it. `Fault.CONFIG`, `CA_NOT_CA` or `CA_EXPIRES` as the CA and families say.
    """
    certificate = load_ca_certificate(config.ca.certificate)
    # Only its certificate is asked for; its key stays where it is.
    authority = CertificateAuthority(certificate, cast("PrivateKey", None))
    roots = config.aws.server_roots.read_bytes()
    found = [
        f"{product.name}: {text}"
        for product in config.products.values()
        for text in misfits(product, family(product.driver).limits(product.options), authority.largest(product), roots)
    ]
    for product in config.products.values():
        found += [f"{product.name}: {text}" for text in (*_images(product), *_endpoint(product, config.aws.endpoint))]
        found += [f"{product.name}: its certificate {text}" for text in authority.try_out(product)]
    if found:
        raise FaultError(Fault.PRODUCT_UNFIT, "; ".join(found))


def _images(product: Product) -> Iterator[str]:
    for image in product.images:
        try:
            reviewed(image)
        except FaultError as error:
            yield error.detail


def _endpoint(product: Product, endpoint: str) -> Iterator[str]:
    """A family that writes the endpoint into its boards names it in its options."""
    named = getattr(product.options, "endpoint", None)
    if named is not None and named != endpoint:
        yield f"the option `endpoint` is {named}, and the station's boards register at {endpoint} (`aws.endpoint`)"


def misfits(
    product: Product, limits: Limits, chain: tuple[x509.Certificate, ...], roots: bytes | None = None
) -> Iterator[str]:
    """What ``product`` asks of its family beyond its limits, in sentences.

    Args:
        product: the product, with its chain form.
        limits: its family's.
        chain: the longest chain that the CA may issue for it, leaf first.
        roots: the station's server roots (PEM); None where they are not looked at.
    """
    held = limits.board_keys if product.key_origin is KeyOrigin.BOARD else limits.station_keys
    if product.key_type not in held:
        known = ", ".join(sorted(held)) or "none"
        yield (
            f"{product.driver} takes no {product.key_type} key made by the {product.key_origin} (it takes: {known});"
            f" {limits.fixed_by}"
        )
    if product.chain_form not in limits.forms:
        known = "; ".join(sorted(limits.forms))
        yield f"{product.driver} holds no chain of the form {product.chain_form} (it holds: {known}); {limits.fixed_by}"
        return
    if product.first_contact is FirstContact.BOARD and not limits.dials:
        yield (
            f"{product.driver} boards cannot dial ({limits.fixed_by}); say `first_contact: {{by: none}}` where the key"
            " is on the board"
        )
    if product.images and not limits.flashes:
        yield f"{product.driver} writes no firmware images; {limits.fixed_by}"
    yield from _too_long(product, limits, Credentials(chain, b"", None, product.chain_form))
    if product.key_origin is KeyOrigin.STATION and limits.place_bytes is not None:
        length = longest_key(product.key_type, der=limits.der)
        if length > limits.place_bytes:
            room = f"{limits.place_bytes} of {product.driver}{_lifted(limits)}"
            yield f"a key of up to {length} bytes does not fit the {room}"
    if roots is not None:
        yield from _roots(product, limits, roots)


def _roots(product: Product, limits: Limits, roots: bytes) -> Iterator[str]:
    try:
        chosen = chosen_roots(roots, product.server_roots)
    except FaultError as error:
        yield f"server_roots: {error.detail}"
        return
    count = chosen.count(b"-----BEGIN ")
    named = "name those it needs with `server_roots: [Amazon Root CA 1]`"
    if limits.root_count is not None and count > limits.root_count:
        yield f"{product.driver} holds {limits.root_count} of the {count} server roots; {named}; {limits.fixed_by}"
    if limits.roots_bytes is not None and len(chosen) > limits.roots_bytes:
        lifted = f", or lift it by {limits.lifted_by}" if limits.lifted_by else ""
        yield (
            f"{len(chosen)} bytes of server roots do not fit the {limits.roots_bytes} of {product.driver};"
            f" {named}{lifted}"
        )


def _lifted(limits: Limits) -> str:
    return f"; lifted by {limits.lifted_by}" if limits.lifted_by else ""


def _too_long(product: Product, limits: Limits, credentials: Credentials) -> Iterator[str]:
    lifted = _lifted(limits)
    sizes = [len(text) for text in credentials.texts(der=limits.der)]
    if limits.place_bytes is not None and max(sizes) > limits.place_bytes:
        yield f"a chain of up to {max(sizes)} bytes does not fit the {limits.place_bytes} of {product.driver}{lifted}"
    longest = max(len(one.public_bytes(Encoding.DER)) for piece in credentials.pieces for one in piece)
    if limits.certificate_bytes is not None and longest > limits.certificate_bytes:
        yield (
            f"a certificate of up to {longest} bytes (DER) does not fit the {limits.certificate_bytes} of"
            f" {product.driver}{lifted}"
        )
