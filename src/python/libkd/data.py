"""data - Dataset and Loader: batches in a seeded order, prepared ahead on a thread of their own.

SPDX-License-Identifier: MIT
"""
from __future__ import annotations

import os
from array import array
from ctypes import byref, c_char_p, c_int32, c_size_t, c_uint32, c_void_p, memmove, string_at
from typing import TYPE_CHECKING, Any, Callable, Iterator, Sequence

from . import _buffers
from ._buffers import ArrayLike, borrow
from ._interrupt import long_call
from ._methods import DatasetMethods, LoaderMethods
from ._native import Box, Object, callback, check, check_path, constant, describe, encode_path, error_of, lib, size_array
from .context import Context, deps
from .tensor import Tensor

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ._methods import LoaderFields

__all__ = ["Dataset", "Loader"]


def _decode_callback(decode: Callable, failed: list) -> Any:
    def call(user: int, path: int, file: int, count: int, height: int, width: int, rgb: int) -> int:
        try:
            image = decode(string_at(file, count))
            if image is None:
                return 0
            sides, pixels = tuple(image[:2]), bytes(image[2])
            if len(pixels) != 3 * sides[0] * sides[1]:
                raise ValueError(f"decode: {len(pixels)} bytes, an image of {sides[0]} x {sides[1]} has {3 * sides[0] * sides[1]}")
            size = [c_size_t.from_address(to) for to in (height, width)]
            if rgb and tuple(side.value for side in size) != sides:
                raise ValueError("decode: another size the second time")
            for to, side in zip(size, sides):
                to.value = side
            if rgb:
                memmove(rgb, pixels, len(pixels))
            return 1
        except BaseException as error:
            failed.append(error)
            return -1

    return callback("kd_decode_fn")(call)


class Dataset(Object, DatasetMethods):
    """Items of one shape and dtype (u8 or f32), each with a class label.  Images are [height, width, channels].

    Dataset(items, labels): over an array [count, item shape..], u8 or f32, without gaps; it is not copied.  labels: integers,
    one for each item; None: all -1, which marks an item as unlabelled.
    """

    __slots__ = ("_context",)

    def __init__(self, items: ArrayLike, labels: Any = None, *, context: Context | None = None) -> None:
        b = borrow(items, "items", dtype=(_buffers.U8, _buffers.F32), contiguous=True)
        if not b.shape:
            raise ValueError("items: needs at least one axis")
        count = b.shape[0]
        numbers = None
        if labels is not None:
            numbers = _integers(labels, c_int32, "labels")
            if len(numbers) != count:
                raise ValueError(f"{len(numbers)} labels for {count} items")
        out = c_void_p()
        check(lib.kd_dataset_wrap(byref(out), Context._of(context), b.dtype, count, len(b.shape) - 1, size_array(b.shape[1:]),
                                  b.ptr or None, numbers))
        self._set(out.value, context, b.keep)

    def _set(self, ptr: int, context: Context | None, *keep: Any) -> "Dataset":
        self._box = Box(ptr, lib.kd_dataset_free, *deps(context), *keep)
        self._context = context
        return self

    @classmethod
    def _from(cls, ptr: int, context: Context | None) -> "Dataset":
        return cls.__new__(cls)._set(ptr, context)

    @classmethod
    def from_idx(cls, images: str | os.PathLike, labels: str | os.PathLike | None = None, *,
                 context: Context | None = None) -> "Dataset":
        """IDX images (u8 or f32, rank 2 to 4) and labels (u8), the format of MNIST."""
        out = c_void_p()
        check_path(lib.kd_dataset_open_idx(byref(out), Context._of(context), encode_path(images),
                                           None if labels is None else encode_path(labels)), images)
        return cls._from(out.value, context)

    @classmethod
    def from_csv(cls, path: str | os.PathLike, *, skip_lines: int | None = None, label_column: int | None = -1,
                 separator: str | None = None, context: Context | None = None) -> "Dataset":
        """Numbers in text, a row a line: f32 items.  label_column: -1 is the last one, None: there are no labels."""
        column = constant("KD_", "csv_no_label") if label_column is None else label_column
        desc, keep = describe("kd_csv_desc", skip_lines=skip_lines, label_column=column, separator=separator)
        out = c_void_p()
        check_path(lib.kd_dataset_open_csv(byref(out), Context._of(context), encode_path(path), byref(desc)), path)
        return cls._from(out.value, context)

    @classmethod
    def from_cifar(cls, paths: Sequence[str | os.PathLike], variant: str | int = "10", *,
                   context: Context | None = None) -> "Dataset":
        """CIFAR binary records.  variant: "10", "100_fine" or "100_coarse"."""
        names = (c_char_p * len(paths))(*(encode_path(path) for path in paths))
        out = c_void_p()
        check(lib.kd_dataset_open_cifar(byref(out), Context._of(context), names, len(paths), constant("KD_CIFAR_", variant)))
        return cls._from(out.value, context)

    @classmethod
    def from_folder(cls, path: str | os.PathLike, *, height: int | None = None, width: int | None = None,
                    decode: Callable[[bytes], "tuple[int, int, bytes] | None"] | None = None,
                    context: Context | None = None) -> "Dataset":
        """PPM and PGM images in a folder for each class, u8 [height, width, 3]; resized and cut to height x width where given.
        decode: asked first, with the bytes of each file: (height, width, the bytes of its RGB pixels), or None: not its format."""
        failed: list[BaseException] = []
        desc, keep = describe("kd_folder_desc", height=height, width=width,
                              decode=None if decode is None else _decode_callback(decode, failed))
        out = c_void_p()
        status = lib.kd_dataset_open_folder(byref(out), Context._of(context), encode_path(path), byref(desc))
        if failed:
            raise failed[0]
        check_path(status, path)
        return cls._from(out.value, context)

    @property
    def class_names(self) -> list[str]:
        """Of a folder, in the order of the labels; empty for other data sets."""
        names = (lib.kd_dataset_class_name(self._h, i) for i in range(self.classes))
        return [name.decode("utf-8", "surrogateescape") for name in names if name]

    def subset(self, indices: Any) -> "Dataset":
        """Some of the items, in this order, repeats allowed; shares the items' memory."""
        numbers = _integers(indices, c_uint32, "indices")
        out = c_void_p()
        check(lib.kd_dataset_subset(byref(out), self._h, numbers, len(numbers)))
        return Dataset.__new__(Dataset)._set(out.value, self._context, self._held)

    def __len__(self) -> int:
        return self.count

    @property
    def item_shape(self) -> tuple[int, ...]:
        return tuple(self.item_size(axis) for axis in range(self.item_rank))

    @property
    def dtype(self) -> str:
        return _buffers.NAMES[lib.kd_dataset_dtype(self._h)]

    @property
    def labels(self) -> memoryview:
        """The labels, int32 [count], to read and to change while no loader runs over them; -1 marks an item as unlabelled."""
        return _buffers.view_of(lib.kd_dataset_labels(self._h), (self.count,), _buffers.I32, self._held)

    def __getitem__(self, index: int) -> tuple[memoryview, int]:
        """One item, in its shape, and its label."""
        if index < 0:
            index += self.count
        ptr = lib.kd_dataset_item(self._h, index) if index >= 0 else None
        if not ptr:
            raise IndexError(f"item {index} of {self.count}")
        item = _buffers.view_of(ptr, self.item_shape, _buffers.DTYPES[self.dtype], self._held)
        return item.toreadonly(), self.labels[index]

    def __repr__(self) -> str:
        return "<libkd.Dataset closed>" if self.closed else f"<libkd.Dataset, {self.count} x {self.dtype} {list(self.item_shape)}>"


def _integers(values: Any, kind: Any, name: str) -> Any:
    """A ctypes array of integers, from any array or sequence of them."""
    if hasattr(values, "tolist"):
        values = values.tolist()
    try:
        return (kind * len(values))(*values)
    except TypeError as error:
        raise TypeError(f"{name}: {error}") from None


class Loader(Object, LoaderMethods):
    """Loader(dataset, batch=64, seed=0, ..): iterating it is one epoch of (x, y).

        for x, y in loader:
            logits = model(tape, x)

    x is f32 [n, item shape..], y i32 [n] (f32 [n, classes] with mix-up); both are the loader's and change with the next batch.
    The keyword arguments are the fields of kd_loader_desc: batch, seed, shuffle, drop_last, scale, shift, crop_padding, flip,
    mixup_alpha, classes, ahead, mean, std, and what DeiT adds: cutmix_alpha, label_smoothing, erase_probability, randaugment_ops,
    crop_area, repeats and the like.  The order is a function of seed, epoch and position alone.
    """

    __slots__ = ("_context", "_x", "_y")

    def __init__(self, dataset: Dataset, *, context: Context | None = None, **fields: "Unpack[LoaderFields]") -> None:
        desc, keep = self._describe(**fields)
        out = c_void_p()
        check(lib.kd_loader_create(byref(out), Context._of(context), dataset._h, byref(desc)))
        self._box = Box(out.value, lib.kd_loader_free, dataset._held, *deps(context))
        self._context = context
        self._x, self._y = c_void_p(), c_void_p()

    def next(self) -> tuple[Tensor, Tensor] | None:
        """The next batch; None after the last one of an epoch, and the call after that begins the next.  Ctrl-C stops it.

        C: kd_loader_next
        """
        status = long_call(Context._of(self._context), lib.kd_loader_next, self._h, byref(self._x), byref(self._y))
        if status < 0:
            raise error_of(status)
        if status:
            return None
        return Tensor._from(self._x.value, self._box), Tensor._from(self._y.value, self._box)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            batch = self.next()
            if batch is None:
                return
            yield batch

    def __len__(self) -> int:
        return self.batches

    @property
    def indices(self) -> array:
        """Which items the last batch holds."""
        ptr = lib.kd_loader_indices(self._h)
        if not ptr:
            return array("I")
        count = lib.kd_tensor_size(self._x, 0)
        return array("I", (c_uint32 * count).from_address(ptr))

    def __repr__(self) -> str:
        return "<libkd.Loader closed>" if self.closed else f"<libkd.Loader, {self.batches} batches, epoch {self.epoch}>"
