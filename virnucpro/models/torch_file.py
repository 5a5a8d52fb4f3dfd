"""Read what `torch.save` wrote without running any of it: the one reader of pickled weights.

PyTorch's reader of weights refuses a pickle that names a class it was not given before anything in
it runs. The archive around the pickle is looked at here first, and mapped, not copied: a record
that claims more bytes than it has can never reach beyond the file.
"""

from __future__ import annotations

import re
import warnings
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from virnucpro.core.errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor

MAX_PICKLE_BYTES = 4 << 20  # 48 layers of weights need 0.2 MB
_MAX_ENTRIES = 10_000
_CHECKED_BYTES = 256 << 20  # larger files are hashed when they are installed
_REMEDY = "from a source you trust, save the tensors alone: torch.save(model.state_dict(), FILE)"


class TorchFile:
    """The content of a file; its tensors are read when they are used."""

    def __init__(self, path: Path, classes: Iterable[tuple[type, str]] = ()) -> None:
        """Read `path`; `classes` are let in beside tensors, each with the name it stands for."""
        import torch

        self.path = path
        self._record_bytes: set[int] = set()
        try:
            if is_archive := zipfile.is_zipfile(path):
                self._check_archive()
            with warnings.catch_warnings(), torch.serialization.safe_globals([*classes]):
                warnings.simplefilter("ignore")  # of other pickle protocols: refused or read
                self.content: Any = torch.load(
                    path, map_location="cpu", weights_only=True, mmap=is_archive
                )
        except ModelError:
            raise
        except Exception as error:  # noqa: BLE001 - any; its text, which is not kept, gives bad advice
            reason = f"damaged, or holds more than tensors ({type(error).__name__})"
            if named := re.search(r"GLOBAL ([!-~]{1,120})", str(error)):
                reason = f"its pickle names {named[1]}, which weights do not need and which could "
                reason += "run code; nothing of it was executed"
            raise ModelError(f"{path}: refused: {reason}; {_REMEDY}") from None

    def tensor(self, name: str, value: Any) -> Tensor:
        """`value` as a tensor of plain numbers that are all in the file; else a ModelError."""
        import torch

        if type(value) not in (torch.Tensor, torch.nn.Parameter):
            raise ModelError(f"{self.path}: {name!r:.80} is a {type(value).__name__}, not a tensor")
        plain = value.layout == torch.strided and value.device.type == "cpu"
        if not plain or value.is_quantized or vars(value):  # attributes could stand in for methods
            raise ModelError(f"{self.path}: {name!r:.80} holds no plain numbers")
        stored = value.untyped_storage().nbytes()
        if self._record_bytes and stored not in self._record_bytes:
            raise ModelError(f"{self.path}: {name!r:.80} is not whole")
        return value  # type: ignore[no-any-return]

    def _check_archive(self) -> None:
        with zipfile.ZipFile(self.path) as archive:
            entries = archive.infolist()
            if len(entries) > _MAX_ENTRIES or len({one.filename for one in entries}) < len(entries):
                raise ModelError(f"{self.path}: the archive has too many or repeated entries")
            if any(one.compress_type != zipfile.ZIP_STORED for one in entries):
                raise ModelError(f"{self.path}: compressed, which torch.save never does")
            size = self.path.stat().st_size
            if sum(one.file_size for one in entries) > size:
                raise ModelError(f"{self.path}: the archive claims more bytes than it has")
            pickles = [one for one in entries if one.filename.endswith("/data.pkl")]
            if any(one.file_size > MAX_PICKLE_BYTES for one in pickles):
                raise ModelError(f"{self.path}: a pickle over 4 MiB, far more than weights need")
            if size <= _CHECKED_BYTES and (damaged := archive.testzip()):
                raise ModelError(f"{self.path}: damaged, {damaged:.80} fails its checksum")
            self._record_bytes = {one.file_size for one in entries if "/data/" in one.filename}
