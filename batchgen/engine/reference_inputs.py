"""The pictures that a request encloses: inline, uploaded or as links, in a format that the model takes."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from types import TracebackType

from PIL import Image

from batchgen.engine.dependents import Dependents
from batchgen.engine.routes import Route
from batchgen.errors import (
    DownloadFailed,
    FileGone,
    ImageError,
    ReferenceLinkFailed,
    ReferenceLinkRefused,
    UsageError,
)
from batchgen.http.single_flight import SingleFlight
from batchgen.http.transport import Transport
from batchgen.http.uploads import Destination, Upload, Uploads
from batchgen.ledger.schema import STATE_FOLDER
from batchgen.manifest.capability import CONVERTIBLE, takes
from batchgen.manifest.storage_url import in_bucket
from batchgen.providers.contract import TakingLinks, Uploading
from batchgen.records import Inputs, ReferenceImage, Sample
from batchgen.references.local import FILE_MAX_BYTES, Picture, References, is_link
from batchgen.safe_open import private
from batchgen.store.bucket import BucketStore
from batchgen.store.check import check_file
from batchgen.store.objects import BucketAway
from batchgen.store.spool import SpoolFile
from batchgen.store.store import SPOOL, Store

FOLDER = "references"  # beside the spool and of its process: what was fetched and converted, for this run only
BATCH_LIFE_S = 40 * 3600.0  # of the 48 hours that a file lives: a batch takes up to 24, and may take more
URI_BYTES = 300  # of an uploaded file's part in a request


@dataclass(frozen=True, slots=True)
class Source:
    """A picture on disk and the references it belongs to."""

    among: References
    picture: Picture


def beyond(sizes_bytes: Sequence[int], room_bytes: int) -> frozenset[int]:
    """Positions of what has to leave for the rest to fit, the largest first. Pure."""
    left, out = sum(sizes_bytes), set()
    for position in sorted(range(len(sizes_bytes)), key=lambda position: -sizes_bytes[position]):
        if left <= room_bytes:
            break
        left -= sizes_bytes[position]
        out.add(position)
    return frozenset(out)


class Enclosures:
    """Use as an async context manager, behind the job's lock: what it keeps on disk goes with it, or with the next run."""

    def __init__(
        self, dependents: Dependents, store: Store, transport: Transport, uploads: Uploads, note: Callable[[str], None]
    ) -> None:
        self._dependents = dependents
        self._transport = transport
        self._uploads = uploads
        self._note = note
        self._store = store
        self._ready: dict[str, str] = {}  # paths, by the link or by what was converted
        self._making = SingleFlight()
        state, spool = os.path.split(os.path.realpath(store.spool))
        self._folder = os.path.join(state, FOLDER + spool.removeprefix(SPOOL))
        self._kept = References(self._folder)

    async def __aenter__(self) -> Enclosures:
        shutil.rmtree(self._folder, ignore_errors=True)
        return self

    async def __aexit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        await self._making.stop()
        await self._uploads.going.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def give_up(self) -> None:
        """Stop fetching and uploading; what waits for it gets CancelledError."""
        self._making.give_up()
        self._uploads.going.give_up()

    async def inputs(self, sample: Sample, route: Route) -> Inputs:
        """Raises ProviderError, and OSError or UsageError when something can no longer be read."""
        item = sample.item
        turns = await asyncio.to_thread(self._dependents.earlier_turns, item, sample.n) if item.turn > 1 else ()
        if not sample.item.references:
            return Inputs((), turns)
        sources = await asyncio.gather(*(self._source(name, route) for name in sample.item.references))
        up: frozenset[int] = frozenset()
        if route.batch:  # named by URI, so that no line of a file holds a picture
            up = frozenset(range(len(sources)))
        elif isinstance(route.codec, Uploading):
            sizes = [0 if isinstance(one, ReferenceImage) else 4 * ((one.picture.bytes + 2) // 3) for one in sources]
            if sum(sizes) + sum(map(len, turns)) > route.profile.request_max_bytes // 2:
                bare = len(route.codec.build(sample, Inputs((), turns)).body) + URI_BYTES * len(sizes)
                up = beyond(sizes, route.profile.request_max_bytes - bare)
        references = await asyncio.gather(
            *(self._sent(one, route, upload=position in up) for position, one in enumerate(sources))
        )
        return Inputs(tuple(references), turns)

    async def forget(self, inputs: Inputs, error: FileGone) -> None:
        """The vendor no longer has an uploaded file: the one that its message names, else all of the request."""
        uris = [reference.uri for reference in inputs.references if reference.uri]
        named = [uri for uri in uris if uri.rpartition("/")[2] in error.message]
        await self._uploads.forget(named or uris)

    async def _source(self, name: str, route: Route) -> Source | ReferenceImage:
        if name.startswith("@") and isinstance(self._store, BucketStore):
            bucket = self._store
            among, path = self._kept, await self._making.do(name, lambda: self._brought(name, bucket))
        elif in_bucket(name):
            among, path = self._kept, await self._making.do(name, lambda: self._from_bucket(name))
        elif not is_link(name):
            among, path = self._dependents.file(name)
        elif isinstance(route.codec, TakingLinks):
            return ReferenceImage("", uri=name)
        else:
            among, path = self._kept, await self._making.do(name, lambda: self._fetched(name, route.base_url))
        picture = among.look(path)
        if takes(route.profile, picture.mime_type):
            return Source(among, picture)
        if picture.mime_type not in CONVERTIBLE:
            raise UsageError(f"{name} is {picture.mime_type}, which {route.profile.id} does not take")
        path = await self._making.do((among, path), lambda: self._converted(name, Source(among, picture), route))
        return Source(self._kept, self._kept.look(path))

    async def _sent(self, source: Source | ReferenceImage, route: Route, *, upload: bool) -> ReferenceImage:
        if isinstance(source, ReferenceImage):
            return source
        among, picture = source.among, source.picture
        if not (upload and isinstance(route.codec, Uploading)):
            return await among.load_async(picture.path)
        file = Upload(
            name=os.path.basename(picture.path),
            sha256=await asyncio.to_thread(among.digest, picture.path),
            mime_type=picture.mime_type,
            open=lambda: among.open_unchanged(picture.path),
        )
        to = Destination(route.codec.files, route.base_url, route.auth)
        for_s = BATCH_LIFE_S if route.batch else 0.0
        return ReferenceImage(picture.mime_type, uri=await self._uploads.uri(to, file, for_s=for_s))

    # --- what is made for this run

    def _place(self, name: str) -> str:
        self._store.plain_folder(os.path.join(STATE_FOLDER, os.path.basename(self._folder)), 0o700)
        return os.path.join(self._folder, sha256(name.encode()).hexdigest())

    async def _fetched(self, link: str, own: str) -> str:
        """Downloaded once per run. Raises ReferenceLinkFailed with the link in its message."""
        if (ready := self._ready.get(link)) is not None:
            return ready
        path = self._place(link)
        part = SpoolFile(self._folder, f"{os.path.basename(path)}.part")
        try:
            await self._transport.fetch(link, part.write, most_bytes=FILE_MAX_BYTES, own=own)
            part.sync()
            if await asyncio.to_thread(_is_cut, part.path):
                raise ReferenceLinkFailed(f"the reference {link}: the picture there is incomplete")
            os.rename(part.path, path)
            self._kept.look(path)
        except DownloadFailed as error:
            kind = ReferenceLinkRefused if error.reason == "link_refused" else ReferenceLinkFailed
            raise kind(f"the reference {link}: {error.message}", http_status=error.http_status) from None
        except UsageError:
            os.unlink(path)
            raise ReferenceLinkFailed(f"the reference {link}: what it gives is not a picture") from None
        finally:
            part.discard()
        self._ready[link] = path
        return path

    async def _brought(self, name: str, bucket: BucketStore) -> str:
        """The picture of another item, once per run. Raises ReferenceLinkFailed."""
        file = self._dependents.picture(name).file
        if (ready := self._ready.get(file.sha256)) is not None:
            return ready
        path = self._place(file.sha256)
        try:
            await asyncio.to_thread(bucket.bring, file.path, path)
        except (BucketAway, FileNotFoundError) as error:
            raise ReferenceLinkFailed(f"the picture of {name}: {str(error) or 'it has gone from the bucket'}") from None
        self._kept.expect(path, file.sha256)
        self._ready[file.sha256] = path
        return path

    async def _from_bucket(self, address: str) -> str:
        """A reference that lies in a bucket, once per run. Raises ReferenceLinkFailed, UsageError."""
        if (ready := self._ready.get(address)) is not None:
            return ready
        path = self._place(address)
        try:
            digest = await asyncio.to_thread(self._dependents.references.bring, address, path)
        except BucketAway as error:
            raise ReferenceLinkFailed(f"the reference {address}: {error}") from None
        self._kept.expect(path, digest)
        self._ready[address] = path
        return path

    async def _converted(self, name: str, source: Source, route: Route) -> str:
        if (ready := self._ready.get(f"png of {source.picture.path}")) is not None:
            return ready
        path = self._place(f"png of {source.picture.path}")
        try:
            await asyncio.to_thread(_to_png, source, path)
        except (
            OSError,
            SyntaxError,
            ValueError,
            Image.DecompressionBombError,
            Image.DecompressionBombWarning,
        ) as error:
            raise UsageError(f"{name} could not be converted to PNG: {error}") from None
        was = source.picture.mime_type.removeprefix("image/")
        frame = " (of several frames the first)" if was == "gif" else ""
        self._note(f"{name}: sent as PNG{frame}, for {route.profile.id} does not take {was}")
        self._ready[f"png of {source.picture.path}"] = path
        return path


def _is_cut(path: str) -> bool:
    """Whether a picture ends too early: a picture made after half of it would be paid for. Another fault is the vendor's to
    judge."""
    try:
        check_file(path)
    except ImageError as error:
        return error.reason == "truncated"
    return False


def _to_png(source: Source, path: str) -> None:
    """The first frame. Raises what Pillow raises; `store.check` has set how many pixels it takes."""
    with source.among.open_unchanged(source.picture.path) as file, Image.open(file) as image:
        see_through = "transparency" in image.info or image.mode in ("LA", "PA", "RGBA")
        with open(f"{path}.part", "wb", opener=private) as part:
            image.convert("RGBA" if see_through else "RGB").save(part, "PNG", compress_level=1)
    os.rename(f"{path}.part", path)
