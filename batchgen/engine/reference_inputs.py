"""Provides the images that a request encloses: inline, uploaded or as links, in a format that the model accepts."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

from batchgen.engine.context import RunContext
from batchgen.engine.dependents import Dependents
from batchgen.engine.routes import Route
from batchgen.errors import DownloadFailed, FileGone, ReferenceLinkFailed, ReferenceLinkRefused, UsageError
from batchgen.http.uploads import Destination, Upload
from batchgen.manifest.addresses import is_object_url
from batchgen.manifest.capability import Redrawing, redrawing
from batchgen.providers.contract import SupportsLinks, SupportsUploads
from batchgen.records import Inputs, ReferenceImage, Sample
from batchgen.references.local import FILE_MAX_BYTES, ReferencePicture, References, is_link
from batchgen.single_flight import SingleFlight
from batchgen.store.blobs import BucketUnavailable
from batchgen.store.check import is_truncated
from batchgen.store.job_folder import SPOOL
from batchgen.store.spool import SpoolFile

REFERENCE_FOLDER = "references"  # beside the spool: downloads and conversions of this run
BATCH_UPLOAD_LIFETIME_S = 40 * 3600.0  # a file lives for 48 hours; a batch takes up to 24, and may take more
URI_PART_BYTES = 300  # of an uploaded file's part in a request


@dataclass(frozen=True, slots=True)
class LocalReference:
    """An image on disk and the positions of the references that it is used for."""

    collection: References
    picture: ReferencePicture


def positions_to_upload(sizes_bytes: Sequence[int], room_bytes: int) -> frozenset[int]:
    """The positions of the images that have to be uploaded so that the rest fits, the largest first. Pure."""
    left, out = sum(sizes_bytes), set()
    for position in sorted(range(len(sizes_bytes)), key=lambda position: -sizes_bytes[position]):
        if left <= room_bytes:
            break
        left -= sizes_bytes[position]
        out.add(position)
    return frozenset(out)


class ReferenceInputs:
    """Provides the inputs of requests. An async context manager, used behind the job's lock: what it keeps on disk is
    deleted on exit, or by the next run."""

    def __init__(self, dependents: Dependents, context: RunContext) -> None:
        self._dependents = dependents
        self._transport = context.transport
        self._uploads = context.uploads
        self._note = context.note
        self._store = context.store
        self._prepared_paths: dict[str, str] = {}  # paths, by the link or by what was converted
        self._noted = set[str]()  # why references were converted, once for each reason
        self._single_flight = SingleFlight()
        state, spool = os.path.split(os.path.realpath(context.store.spool))
        self._name = os.path.join(os.path.basename(state), REFERENCE_FOLDER + spool.removeprefix(SPOOL))
        self._folder = os.path.join(os.path.dirname(state), self._name)
        self._prepared = References(self._folder)

    async def __aenter__(self) -> ReferenceInputs:
        shutil.rmtree(self._folder, ignore_errors=True)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._single_flight.stop()
        await self._uploads.in_flight.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def give_up(self) -> None:
        """Stop downloading and uploading. Whoever waits for it gets CancelledError."""
        self._single_flight.cancel()
        self._uploads.in_flight.cancel()

    async def inputs(self, sample: Sample, route: Route) -> Inputs:
        """The inputs of a request. Raises ProviderError, and OSError or UsageError if something can no longer be
        read."""
        item = sample.item
        turns = await asyncio.to_thread(self._dependents.earlier_turns, item, sample.n) if item.turn > 1 else ()
        if not sample.item.references:
            return Inputs((), turns)
        sources = await asyncio.gather(*(self._resolve(name, route) for name in sample.item.references))
        to_upload: frozenset[int] = frozenset()
        if route.batch:  # by URI, so that no line of a file contains an image
            to_upload = frozenset(range(len(sources)))
        elif isinstance(route.codec, SupportsUploads):
            sizes = [0 if isinstance(one, ReferenceImage) else 4 * ((one.picture.bytes + 2) // 3) for one in sources]
            if sum(sizes) + sum(map(len, turns)) > route.profile.request_max_bytes // 2:
                bare = len(route.codec.build(sample, Inputs((), turns)).body) + URI_PART_BYTES * len(sizes)
                to_upload = positions_to_upload(sizes, route.profile.request_max_bytes - bare)
        references = await asyncio.gather(
            *(self._encode(one, route, upload=position in to_upload) for position, one in enumerate(sources))
        )
        return Inputs(tuple(references), turns)

    async def forget_uploads(self, inputs: Inputs, error: FileGone) -> None:
        """Forget uploaded files that the vendor no longer has: those that it names, else all of the request."""
        uris = [reference.uri for reference in inputs.references if reference.uri]
        named = [uri for uri in uris if uri.rpartition("/")[2] in error.files]
        await self._uploads.forget(named or uris)

    async def _resolve(self, name: str, route: Route) -> LocalReference | ReferenceImage:
        collection = self._prepared
        if name.startswith("@") and self._store.properties.remote:
            path = await self._single_flight.do(name, lambda: self._download_item_image(name))
        elif is_object_url(name):
            path = await self._single_flight.do(name, lambda: self._download_from_bucket(name))
        elif not is_link(name):
            collection, path = self._dependents.locate_reference(name)
        elif isinstance(route.codec, SupportsLinks):
            return ReferenceImage("", uri=name)
        else:
            path = await self._single_flight.do(name, lambda: self._download_link(name, route.base_url))
        picture = collection.identify(path)
        try:
            instead = redrawing(picture, route.profile)
        except UsageError as error:
            raise UsageError(f"{name} {error}") from None
        if instead is None:
            return LocalReference(collection, picture)
        path = await self._single_flight.do(
            (collection, path, instead.kind), lambda: self._redraw(name, LocalReference(collection, picture), instead)
        )
        return LocalReference(self._prepared, self._prepared.identify(path))

    async def _encode(self, source: LocalReference | ReferenceImage, route: Route, *, upload: bool) -> ReferenceImage:
        if isinstance(source, ReferenceImage):
            return source
        collection, picture = source.collection, source.picture
        if not (upload and isinstance(route.codec, SupportsUploads)):
            return await collection.load_async(picture.path)
        file = Upload(
            name=os.path.basename(picture.path),
            sha256=await asyncio.to_thread(collection.digest, picture.path),
            mime_type=picture.mime_type,
            open=lambda: collection.open_unchanged(picture.path),
        )
        to = Destination(route.codec.files, route.base_url, route.credentials)
        min_lifetime_s = BATCH_UPLOAD_LIFETIME_S if route.batch else 0.0
        return ReferenceImage(picture.mime_type, uri=await self._uploads.uri(to, file, min_lifetime_s=min_lifetime_s))

    # --- made for this run

    def _path_for(self, name: str) -> str:
        self._store.plain_folder(self._name, 0o700)
        return os.path.join(self._folder, sha256(name.encode()).hexdigest())

    async def _download_link(self, link: str, api_url: str) -> str:
        """Download a link, once per run. Raises ReferenceLinkFailed with the link in its message."""
        if (ready := self._prepared_paths.get(link)) is not None:
            return ready
        path = self._path_for(link)
        part = SpoolFile(self._folder, f"{os.path.basename(path)}.part")
        try:
            await self._transport.download_link(link, part.write, max_bytes=FILE_MAX_BYTES, api_url=api_url)
            part.sync()
            if await asyncio.to_thread(is_truncated, part.path):
                raise ReferenceLinkFailed(f"the reference {link}: the image there is incomplete")
            os.rename(part.path, path)
            self._prepared.identify(path)
        except DownloadFailed as error:
            kind = ReferenceLinkRefused if error.reason == "link_refused" else ReferenceLinkFailed
            raise kind(f"the reference {link}: {error.message}", http_status=error.http_status) from None
        except UsageError:
            os.unlink(path)
            raise ReferenceLinkFailed(f"the reference {link}: what it gives is not an image") from None
        finally:
            part.discard()
        self._prepared_paths[link] = path
        return path

    async def _download_item_image(self, name: str) -> str:
        """Get the image of another item, once per run. Raises ReferenceLinkFailed."""
        file = self._dependents.referenced_image(name).file
        if (ready := self._prepared_paths.get(file.sha256)) is not None:
            return ready
        path = self._path_for(file.sha256)
        try:
            await asyncio.to_thread(self._store.download, file.path, path)
        except (BucketUnavailable, FileNotFoundError) as error:
            raise ReferenceLinkFailed(f"the image of {name}: {str(error) or 'it has gone from the bucket'}") from None
        self._prepared.expect_digest(path, file.sha256)
        self._prepared_paths[file.sha256] = path
        return path

    async def _download_from_bucket(self, address: str) -> str:
        """Download a reference from a bucket, once per run. Raises ReferenceLinkFailed, UsageError."""
        if (ready := self._prepared_paths.get(address)) is not None:
            return ready
        path = self._path_for(address)
        try:
            digest = await asyncio.to_thread(self._dependents.references.fetch, address, path)
        except BucketUnavailable as error:
            raise ReferenceLinkFailed(f"the reference {address}: {error}") from None
        self._prepared.expect_digest(path, digest)
        self._prepared_paths[address] = path
        return path

    async def _redraw(self, name: str, source: LocalReference, instead: Redrawing) -> str:
        made = f"{instead.kind} of {source.picture.path}"
        if (ready := self._prepared_paths.get(made)) is not None:
            return ready
        path = self._path_for(made)
        try:
            await asyncio.to_thread(source.collection.redraw, source.picture.path, path, instead.kind)
        except OSError as error:
            raise UsageError(f"{name} could not be converted to {instead.kind}: {error}") from None
        if instead.why not in self._noted:
            self._noted.add(instead.why)
            self._note(f"{os.path.basename(name)}: {instead.why}; others like it are not listed")
        self._prepared_paths[made] = path
        return path
