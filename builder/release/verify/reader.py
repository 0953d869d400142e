"""Where an image to verify is: an OCI layout or a registry, read alike. Everything that is read is checked by digest and size."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from builder.documents.reference import Reference
from builder.oci.layout import RECIPE_NAME, REF_NAME, Layout
from builder.oci.referrers import find_referrers
from builder.oci.registry.client import Registry
from builder.oci.types import INDEX_TYPES, MANIFEST_TYPES, OCI_MANIFEST, Descriptor
from builder.release.attest.read import TYPES, name_of, open_document
from builder.release.attest.signed import UNSIGNED, SignedBy
from builder.release.attest.trust import NOBODY, Trust
from builder.util.context import Context
from builder.util.errors import BuilderError, InputError, MismatchError, UnreachableError

_LAYER_LIMIT = 512 << 20
_EVIDENCE_LIMIT = 64 << 20
_MOST_EVIDENCE = 500


@dataclass(frozen=True)
class Attachment:
    """A document that is attached to a manifest, or why it cannot be read (`problem`).

    `digest` is that of the referrer, `stored` that of what is stored: the envelope, where there is one. `document` is what is
    inside, of the `kind` that `builder.release.attest.read` names.
    """

    digest: str
    kind: str
    subject: str = ""
    annotations: dict[str, Any] = field(default_factory=dict)
    document: bytes = field(default=b"", repr=False)
    problem: str = ""
    signed: SignedBy = UNSIGNED
    stored: str = ""


class Reader(Protocol):
    """An image that was named."""

    reference: str
    tag: str | None
    """The tag by which it was named, when it was."""
    top: Descriptor
    complete: bool
    """Whether every kind of evidence can be expected here: a layout holds lock and sources only."""

    def read(self, descriptor: Descriptor) -> bytes: ...

    def evidence(self, subject: str) -> list[Attachment]:
        """What is attached to a manifest, of the kinds that this tool attaches."""


class LayoutReader:
    """An image in an OCI layout."""

    complete = False

    def __init__(self, folder: Path, name: str | None, trust: Trust = NOBODY) -> None:
        self._layout = Layout(folder)
        self._trust = trust
        self.reference = f"oci:{folder}{f':{name}' if name else ''}"
        self.tag = name if name and not name.startswith("sha256:") else None
        self.top = self._layout.resolve(name)
        named = [each for each in self._layout.entries() if name is not None and each.annotations.get(REF_NAME) == name]
        if len({each.digest for each in named}) > 1:
            raise MismatchError(
                f"{self.reference} is not what it should be: index.json gives the name to {len(named)} images",
                details=[("differs", f"index entry {name}\nwanted one image\nfound  {each.digest}") for each in named],
                hint="clients differ in which one they take: build the layout again",
            )

    def read(self, descriptor: Descriptor) -> bytes:
        path = self._layout.blob_path(descriptor.digest)
        if path.is_file() and path.stat().st_size != descriptor.size:
            raise MismatchError(
                f"a blob of {self.reference} does not have the size that its descriptor names",
                details=[
                    ("blob", descriptor.digest),
                    ("wanted", str(descriptor.size)),
                    ("found", str(path.stat().st_size)),
                ],
                hint="the layout is damaged or was changed: build it again",
            )
        if descriptor.size > _LAYER_LIMIT:
            raise MismatchError(f"blob {descriptor.digest} of {self.reference} is larger than {_LAYER_LIMIT >> 20} MiB")
        return self._layout.read_blob(descriptor.digest)

    def evidence(self, subject: str) -> list[Attachment]:
        found: list[Attachment] = []
        others: list[Attachment] = []
        for each in self._layout.entries():
            if not each.artifact_type or REF_NAME in each.annotations:
                continue
            attachment = _attachment(each, self.read, self._trust)
            if attachment is None:
                continue
            if attachment.problem or attachment.subject == subject:
                found.append(attachment)
            elif each.annotations.get(RECIPE_NAME) == self.top.annotations.get(RECIPE_NAME):
                others.append(attachment)
        # An image that was put in the place of another has nothing of its own: what it replaced says what it should be.
        return found or (others if subject == self.top.digest else [])


class RegistryReader:
    """An image in a registry."""

    complete = True

    def __init__(self, reference: str, *, context: Context, trust: Trust = NOBODY) -> None:
        self.reference = reference
        self._trust = trust
        self._parsed = Reference.parse(reference)
        self.registry = Registry(self._parsed.registry, context=context)
        self.tag = self._parsed.tag
        data, media_type, digest = self.registry.manifest(
            self._parsed.repository, self._parsed.digest or self._parsed.tag or "latest"
        )
        self.top = Descriptor(media_type, digest, len(data))
        self._kept = {digest: data}

    def read(self, descriptor: Descriptor) -> bytes:
        kept = self._kept.get(descriptor.digest)
        if kept is None:
            if descriptor.media_type in (*INDEX_TYPES, *MANIFEST_TYPES):
                kept = self.registry.manifest(self._parsed.repository, descriptor.digest)[0]
            else:
                kept = self.registry.read_blob(self._parsed.repository, descriptor, limit=_LAYER_LIMIT)
            if descriptor.size <= _LAYER_LIMIT >> 4:
                self._kept[descriptor.digest] = kept
        if len(kept) != descriptor.size:
            raise MismatchError(
                f"a blob of {self.reference} does not have the size that its descriptor names",
                details=[("blob", descriptor.digest), ("wanted", str(descriptor.size)), ("found", str(len(kept)))],
            )
        return kept

    def evidence(self, subject: str, types: Collection[str] = TYPES) -> list[Attachment]:
        """`types` are the artifact types that are read."""
        listed = find_referrers(self.registry, self._parsed.repository, subject)
        ours = [each for each in listed if not each.artifact_type or each.artifact_type in types]
        if len(ours) > _MOST_EVIDENCE:
            raise MismatchError(
                f"{len(ours)} documents are attached to {subject}, more than {_MOST_EVIDENCE}",
                hint="somebody floods the image with evidence: remove what is not yours from the registry",
            )
        return [each for each in (_attachment(one, self.read, self._trust) for one in ours) if each is not None]


def _attachment(descriptor: Descriptor, read: Callable[[Descriptor], bytes], trust: Trust) -> Attachment | None:
    """What a descriptor of a referrer leads to; None for the kinds of others, such as signatures of images."""
    kind = descriptor.artifact_type
    if kind and kind not in TYPES:
        return None
    try:
        manifest = json.loads(read(Descriptor(OCI_MANIFEST, descriptor.digest, descriptor.size)))
        kind = str(manifest.get("artifactType") or "")
        if kind not in TYPES:
            return None
        documents: Sequence[Any] = manifest.get("layers") or []
        if len(documents) != 1:
            return Attachment(
                descriptor.digest, name_of(kind), problem=f"it has {len(documents)} documents instead of one"
            )
        subject = str((manifest.get("subject") or {}).get("digest"))
        annotations = dict(manifest.get("annotations") or {})
        described = Descriptor.from_json(documents[0])
        if described.size > _EVIDENCE_LIMIT:
            return Attachment(
                descriptor.digest, name_of(kind), problem=f"it is larger than {_EVIDENCE_LIMIT >> 20} MiB"
            )
        opened = open_document(kind, read(described), trust)
    except UnreachableError:
        raise
    except (BuilderError, ValueError, TypeError, AttributeError, KeyError) as error:
        why = error.message if isinstance(error, BuilderError) else str(error)
        if isinstance(error, BuilderError):
            why = ": ".join([why, *(text for label, text in error.details if label == "why")])
        return Attachment(descriptor.digest, name_of(kind), problem=why)
    if opened is None:
        return None
    return Attachment(
        descriptor.digest, opened.kind, subject, annotations, opened.data, "", opened.signed, described.digest
    )


def open_reader(text: str, *, context: Context, trust: Trust = NOBODY) -> Reader:
    """`oci:DIR`, `oci:DIR:NAME`, or a registry's reference. `trust` has the signers that count."""
    if not text.startswith("oci:"):
        if text.startswith(("docker:", "wheel:", "oci-archive:")):
            raise InputError(
                f"cannot verify {text!r}",
                hint="name a layout (oci:DIR) or an image in a registry; a container verifies itself: docker run IMAGE verify",
            )
        return RegistryReader(text, context=context, trust=trust)
    rest = text.removeprefix("oci:")
    if Path(rest).is_dir():
        # A folder that exists is meant as it is, also when its name has a colon.
        return LayoutReader(Path(rest), None, trust)
    folder, colon, name = rest.rpartition(":")
    if ":sha256" in rest and not Path(folder).is_dir():
        folder, colon, name = rest.partition(":sha256:")
        name = f"sha256:{name}"
    if colon and Path(folder).is_dir():
        return LayoutReader(Path(folder), name, trust)
    raise no_layout(rest)


def no_layout(text: str) -> InputError:
    """The error for a path that is not a folder."""
    if not Path(text).is_file():
        return InputError(f"there is no folder {text}", hint="name an OCI layout: oci:DIR or oci:DIR:TAG")
    return InputError(
        f"{text} is a file, not the folder of an OCI layout",
        hint=f"unpack an archive into one: skopeo copy oci-archive:{shlex.quote(text)} oci:DIR",
    )


def read_json(reader: Reader, descriptor: Descriptor) -> dict[str, Any]:
    """A manifest or config. Raises `InputError` when it is not a JSON object."""
    try:
        document = json.loads(reader.read(descriptor))
    except ValueError as error:
        raise InputError(f"{descriptor.digest} in {reader.reference} is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise InputError(f"{descriptor.digest} in {reader.reference} is not a JSON object")
    return document


def manifests(reader: Reader) -> list[Descriptor]:
    """The image manifests of a reference, one per platform."""
    if reader.top.media_type not in INDEX_TYPES:
        return [reader.top]
    return [Descriptor.from_json(each) for each in read_json(reader, reader.top).get("manifests", [])]
