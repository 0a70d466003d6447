# no_torchvision.py - import this first, and timm can be imported where torchvision is missing: timm asks it for things that nothing here
# uses, and empty names stand in for them.
# SPDX-License-Identifier: MIT
import importlib.machinery
import sys
import types

import torch


class Name(type):
    """A class that has any member in capitals: an enumeration's."""

    def __getattr__(cls, name):
        if not name.isupper():
            raise AttributeError(name)
        return name


class Empty(types.ModuleType):
    __path__ = []

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return Name(name, (torch.nn.Module,), {})


class Finder:
    """Any module of torchvision."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        return importlib.machinery.ModuleSpec(name, Finder, is_package=True) if name.split(".")[0] == "torchvision" else None

    @staticmethod
    def create_module(spec):
        return Empty(spec.name)

    @staticmethod
    def exec_module(module):
        pass


sys.meta_path.append(Finder)   # asked last: the real one goes first
