"""A store in a Google Cloud Storage bucket: parallel, resumable, preconditioned transfers, and its errors in one line.

Uploads go through the transfer manager of google-cloud-storage; a large file goes as parts that the bucket joins, so
that a cut upload goes on from the parts that are there, whoever sent them. Credentials are the application default ones
(Workload Identity in a pod, `gcloud auth application-default login` elsewhere); STORAGE_EMULATOR_HOST needs none.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote

from unifl.core.errors import SettingsError, StorageError, UniflError
from unifl.core.files import storage_errors
from unifl.core.progress import progress
from unifl.data.store_place import PART_BYTES, Conflict, LocalFile, Small, StoredObject, Wanted, part_bytes

READING = ("storage.objects.get", "storage.objects.list")
WRITING = (*READING, "storage.objects.create", "storage.objects.delete")
ANSWER_SECONDS = 60.0
"""How long an answer may stay away, as in google-cloud-storage."""

COPY_BYTES = 2**20
STREAMED_BYTES = 2**20
"""A file above this size is streamed (two requests, taken up after a break); below, one request carries all of it."""

CHECK_SECONDS = 15.0
"""How long the first question to the bucket is tried: a wrong address should not cost minutes."""


class BucketPlace:
    """The objects below `prefix` of a bucket.

    Args:
        bucket: the bucket's name.
        prefix: folder in the bucket, without slashes at its ends; empty for all of it.
        workers: how many transfers run at once.
        part: least size of a part and size of a range, in bytes.
    """

    def __init__(self, bucket: str, prefix: str, workers: int, part: int = PART_BYTES) -> None:
        from google.cloud import storage

        self.address = "/".join(filter(None, (f"gs://{bucket}", prefix)))
        self._prefix = f"{prefix}/" if prefix else ""
        self._workers = workers
        self._part = part
        with google_errors(self.address):
            client = storage.Client()
        self._bucket = client.bucket(bucket)
        self._credentials = client._credentials
        self._media = f"{client.api_endpoint}/download/storage/v1/b/{bucket}/o"
        self._threads = threading.local()

    def check_rights(self, *, write: bool) -> None:
        from google.cloud.storage.retry import DEFAULT_RETRY

        needed = WRITING if write else READING
        with google_errors(self.address):
            granted = self._bucket.test_iam_permissions(
                needed, timeout=CHECK_SECONDS, retry=DEFAULT_RETRY.with_timeout(CHECK_SECONDS)
            )
        if missing := [permission for permission in needed if permission not in granted]:
            raise StorageError(f"no right to {', '.join(missing)}", file=self.address, remedy=_rights_remedy(write))

    def objects(self, prefix: str) -> dict[str, StoredObject]:
        fields = "items(name,size,crc32c,metadata),nextPageToken"
        with google_errors(self.address):
            blobs = list(self._bucket.list_blobs(prefix=self._prefix + prefix, fields=fields))
        return {
            blob.name.removeprefix(self._prefix): StoredObject(
                int(blob.size), blob.crc32c, (blob.metadata or {}).get("sha256")
            )
            for blob in blobs
        }

    def upload(self, files: Mapping[str, LocalFile]) -> None:
        cut = {key: file for key, file in files.items() if file.parts}
        jobs = [(_source(file), self._blob(key, file)) for key, file in files.items() if not file.parts]
        for key, file in cut.items():
            there = self.objects(f"parts/{key}/")
            for index, part in enumerate(_part_keys(key, file)):
                if part not in there or there[part].crc32c != file.parts[index]:
                    jobs.append(self._part_job(file, index, part))
        with google_errors(self.address):
            self._send(jobs)
            for key, file in cut.items():
                self._join(key, file)

    def _send(self, jobs: list[tuple[Any, Any]]) -> None:
        """Send in batches: progress is shown, and a refusal does not wait for everything else."""
        from google.cloud.storage import transfer_manager

        batches = [jobs[start : start + 2 * self._workers] for start in range(0, len(jobs), 2 * self._workers)]
        for batch in progress(batches, f"sending to {self.address}", "batches"):
            try:
                # An object that is there already is not written again (if_generation_match=0), nor is that an error.
                # No checksum here: every object is sent with its CRC32C, to which the bucket holds the bytes.
                transfer_manager.upload_many(
                    batch,
                    skip_if_exists=True,
                    raise_exception=True,
                    worker_type=transfer_manager.THREAD,
                    max_workers=self._workers,
                    upload_kwargs={"checksum": None},
                )
            finally:
                for source, _ in batch:
                    if isinstance(source, Slice):
                        source.close()

    def _blob(self, key: str, file: LocalFile) -> Any:
        blob = self._bucket.blob(self._prefix + key)
        blob.metadata = {"sha256": file.sha256}
        blob.crc32c = file.crc32c  # the bucket refuses other bytes
        return blob

    def _part_job(self, file: LocalFile, index: int, key: str) -> tuple[Slice, Any]:
        size = part_bytes(file.size, self._part)
        blob = self._bucket.blob(self._prefix + key)
        blob.crc32c = file.parts[index]
        return Slice(file.path, index * size, min(size, file.size - index * size)), blob

    def _join(self, key: str, file: LocalFile) -> None:
        """Make one object of the parts and remove them."""
        from google.api_core.exceptions import NotFound, PreconditionFailed

        parts = [self._bucket.blob(self._prefix + name) for name in _part_keys(key, file)]
        target = self._blob(key, file)
        try:
            target.compose(parts, if_generation_match=0)
        except PreconditionFailed:
            pass  # another writer has joined the same parts
        except NotFound:
            # Another writer of this object has joined its parts and removed them.
            if not target.exists():
                raise
        self._bucket.delete_blobs(parts, on_error=lambda _: None)

    def download(self, wanted: Sequence[Wanted], journal: Path, whole: Callable[[Wanted], None]) -> None:
        fetched = Journal(journal)
        pool = ThreadPoolExecutor(self._workers)
        try:
            with google_errors(self.address):
                waiting: dict[Future[None], Wanted] = {}
                left: dict[Path, int] = {}
                for file in wanted:
                    _make_room(file, fetched)
                    starts = [start for start in self._starts(file) if not fetched.has(file.key, start)]
                    left[file.target] = len(starts)
                    for start in starts:
                        waiting[pool.submit(self._fetch, file, start, fetched)] = file
                    if not starts:
                        whole(file)
                checks = []
                for future in progress(
                    as_completed(waiting), f"fetching from {self.address}", "ranges", total=len(waiting)
                ):
                    future.result()
                    file = waiting[future]
                    left[file.target] -= 1
                    if left[file.target] == 0:
                        checks.append(pool.submit(whole, file))
                for check in checks:
                    check.result()
        finally:
            pool.shutdown(cancel_futures=True)
            fetched.close()

    def _starts(self, file: Wanted) -> range:
        return range(0, max(file.size, 1), self._part)

    def _fetch(self, file: Wanted, start: int, fetched: Journal) -> None:
        end = min(start + self._part, file.size)
        with storage_errors(file.target), open(file.target, "r+b") as stream:
            stream.seek(start)
            # A broken connection is taken up where it broke; SHA-256 of the whole file is checked afterwards.
            _retry()(self._copy_range)(file.key, stream, end)
        fetched.add(file.key, start)

    def _copy_range(self, key: str, stream: BinaryIO, end: int) -> None:
        """Write the object's bytes from where `stream` stands up to `end`.

        The library's own download hands on 8 KiB at a time, which costs most of the time; this asks the same address.
        """
        from google.api_core.exceptions import from_http_response

        if stream.tell() == end:
            return
        address = f"{self._media}/{quote(self._prefix + key, safe='')}?alt=media"
        wanted = {"Range": f"bytes={stream.tell()}-{end - 1}", "Accept-Encoding": "identity"}
        with self._session().get(address, headers=wanted, stream=True, timeout=ANSWER_SECONDS) as answer:
            if answer.status_code != 206:
                raise from_http_response(answer)
            shutil.copyfileobj(answer.raw, stream, COPY_BYTES)
        if stream.tell() != end:
            raise ConnectionResetError(f"{key} ended at byte {stream.tell()} of {end}")

    def _session(self) -> Any:
        """One authorised session a thread: sessions are not made to be shared."""
        from google.auth.transport.requests import AuthorizedSession

        if not hasattr(self._threads, "session"):
            self._threads.session = AuthorizedSession(self._credentials)
        return self._threads.session

    def read(self, key: str) -> Small | None:
        from google.api_core.exceptions import NotFound

        blob = self._bucket.blob(self._prefix + key)
        with google_errors(self.address):
            try:
                blob.reload()
                generation = blob.generation
                content = blob.download_as_bytes(if_generation_match=generation)
            except NotFound:
                return None
        return Small(content, str(generation))

    def write(self, key: str, content: bytes, generation: str) -> None:
        from google.api_core.exceptions import PreconditionFailed

        blob = self._bucket.blob(self._prefix + key)
        with google_errors(self.address):
            try:
                blob.upload_from_string(
                    content,
                    content_type="application/json",
                    if_generation_match=int(generation),
                    checksum="crc32c",
                )
            except PreconditionFailed as error:
                raise Conflict(key) from error


def check_readable(address: str) -> None:
    """See that something lies at `gs://BUCKET/PATH` (an object, or objects below it) and that it may be read.

    By the questions that a reader asks, so that rights given for a part of a bucket count as well. Raises SettingsError
    for another kind of address, StorageError when the bucket refuses or nothing is there.
    """
    from google.cloud import storage
    from google.cloud.storage.retry import DEFAULT_RETRY

    bucket, _, path = address.removeprefix("gs://").partition("/")
    path = path.rstrip("/")
    if not address.startswith("gs://") or not bucket or not path:
        raise SettingsError(f"{address!r} is no address in a bucket", expected="gs://BUCKET/PATH")
    tried: dict[str, Any] = {"timeout": CHECK_SECONDS, "retry": DEFAULT_RETRY.with_timeout(CHECK_SECONDS)}
    with google_errors(address):
        client = storage.Client()
        if client.bucket(bucket).get_blob(path, **tried) is not None:
            return
        for below in client.list_blobs(bucket, prefix=f"{path}/", max_results=1, **tried):
            below.reload(**tried)
            return
    raise StorageError("nothing lies there", file=address, remedy="check the address")


def _part_keys(key: str, file: LocalFile) -> list[str]:
    """Parts belong to one object: who joins them may remove them."""
    count = len(file.parts)
    return [f"parts/{key}/{index:02d}-of-{count:02d}" for index in range(count)]


def _source(file: LocalFile) -> Any:
    """What the transfer manager sends: a file by its name in one request, or as a stream."""
    return Slice(file.path, 0, file.size) if file.size > STREAMED_BYTES else str(file.path)


def _retry() -> Any:
    from google.cloud.storage.retry import DEFAULT_RETRY

    return DEFAULT_RETRY


class Slice(io.RawIOBase):
    """`size` bytes of a file from `start`, as a stream of its own."""

    def __init__(self, path: Path, start: int, size: int) -> None:
        self._file = open(path, "rb")  # noqa: SIM115 - closed with this stream
        self._start, self._size, self._at = start, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        return self._at

    def read(self, size: int | None = -1) -> bytes:
        left = max(self._size - self._at, 0)
        count = left if size is None or size < 0 else min(size, left)
        self._file.seek(self._start + self._at)
        content = self._file.read(count)
        self._at += len(content)
        return content

    def close(self) -> None:
        self._file.close()
        super().close()


class Journal:
    """Which ranges of which files a download has: a line a range, written after its bytes, and one for a file begun."""

    def __init__(self, path: Path) -> None:
        self._fetched: dict[str, set[int]] = {}
        for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
            start, _, key = line.partition(" ")
            if start == "new":
                self._fetched[key] = set()
            elif start.isdecimal():
                self._fetched.setdefault(key, set()).add(int(start))
        self._lock = threading.Lock()
        self._stream = open(path, "a", encoding="utf-8")  # noqa: SIM115 - closed by close()

    def begin(self, key: str) -> None:
        """Nothing is there of this file: it was just made."""
        self._fetched[key] = set()
        self._append(f"new {key}")

    def has(self, key: str, start: int) -> bool:
        return start in self._fetched.get(key, ())

    def add(self, key: str, start: int) -> None:
        self._append(f"{start} {key}")

    def close(self) -> None:
        self._stream.close()

    def _append(self, line: str) -> None:
        with self._lock:
            print(line, file=self._stream, flush=True)


def _make_room(file: Wanted, fetched: Journal) -> None:
    """The file at its full size, so that ranges can be written into it."""
    file.target.parent.mkdir(parents=True, exist_ok=True)
    if not file.target.exists() or file.target.stat().st_size != file.size:
        fetched.begin(file.key)
        with storage_errors(file.target), open(file.target, "wb") as stream:
            stream.truncate(file.size)


@contextmanager
def google_errors(address: str) -> Iterator[None]:
    """Turn what Google's libraries raise about buckets and credentials into one StorageError with a remedy."""
    try:
        yield
    except (UniflError, Conflict):
        raise
    except Exception as error:
        if (refusal := google_refusal(error, address)) is None:
            raise
        raise refusal from error


def google_refusal(error: BaseException, address: str) -> StorageError | None:
    """The StorageError for an error of Google's libraries or of gcsfs, or for one that came from such; else None."""
    seen: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in seen:
        if told := _told(link):
            return StorageError(told[0], file=address, remedy=told[1])
        seen.append(link)
        link = link.__cause__ or link.__context__
    return None


def _told(error: BaseException) -> tuple[str, str] | None:
    import requests
    from google.api_core import exceptions as api
    from google.auth import exceptions as auth

    text = " ".join(str(error).split())
    # Google's own words, without the request's address.
    text = re.sub(r"^\d+ [A-Z]+ \S+: ", "", text)
    reason = re.search(r'"message": ?"([^"]+)"', text)
    detail = reason[1] if reason else text[:300]
    match error:
        case api.NotFound():
            return (
                "there is no such bucket or object",
                "check the address; `gcloud storage buckets create` makes a bucket",
            )
        case api.Forbidden():
            reading = any(permission in detail for permission in READING)
            return f"no right to do this: {detail}", _rights_remedy(not reading)
        # gcsfs
        case OSError() if text.startswith("Forbidden: "):
            return f"no right to do this: {text}", _rights_remedy(False)
        case Exception() if getattr(error, "code", None) == 401:
            return f"Google Cloud does not accept the credentials, or there are none: {text}", LOGIN
        case api.Unauthorized() | auth.RefreshError() | auth.DefaultCredentialsError() | auth.TransportError():
            return f"Google Cloud does not accept the credentials, or there are none: {detail}", LOGIN
        case api.BadRequest() if "crc32c" in detail.lower():
            return f"the bucket received other bytes than were sent, or the file has changed: {detail}", "run again"
        case api.GoogleAPICallError() | api.RetryError():
            return f"the bucket answers with an error: {detail}", "run again; it goes on from what was finished"
        case requests.RequestException():
            return f"the bucket can't be reached: {detail}", "check the network; then run again, it goes on"
    return None


LOGIN = (
    "`gcloud auth application-default login`; in a pod: bind its service account to one of Google's "
    "(Workload Identity, docs/gke.md)"
)


def _rights_remedy(write: bool) -> str:
    role = "roles/storage.objectUser" if write else "roles/storage.objectViewer"
    return f"give this identity {role} on the bucket (`gcloud storage buckets add-iam-policy-binding`)"
