"""kd_build.py - the build backend (PEP 517, PEP 660): a wheel with the library inside, an sdist, an editable install.

    pip install .                               all by itself
    python3 src/python/kd_build.py wheel DIR    what `make wheel` calls
    python3 src/python/kd_build.py sdist DIR

The library is built by make; CC, CFLAGS and MAKEFLAGS are yours.  The wheel is for any Python 3 of this platform,
and the same bytes from the same source.
SPDX-License-Identifier: MIT
"""
import base64
import hashlib
import io
import os
import pathlib
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import time
import zipfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "src" / "python" / "libkd"
DATA = ("digits-images.idx", "digits-labels.idx", "README.md")
# What a manylinux wheel may ask of the system, of what libkd could ever ask for.
SYSTEM = {"libc.so.6", "libm.so.6", "libpthread.so.0", "ld-linux-x86-64.so.2", "ld-linux-aarch64.so.1"}


def constant(name):
    return re.search(rf"^#define {name} +(\d+)", (ROOT / "include/kd/base.h").read_text(), flags=re.M)[1]


def version():
    return ".".join(constant(f"KD_VERSION_{part}") for part in ("MAJOR", "MINOR", "PATCH"))


def project(key):
    """A string of pyproject.toml; Python 3.9 has no reader of its own."""
    return re.search(rf'^{key} = "(.*)"$', (ROOT / "pyproject.toml").read_text(), flags=re.M)[1]


def metadata():
    keywords = re.search(r"^keywords = \[(.*)\]$", (ROOT / "pyproject.toml").read_text(), flags=re.M)[1].replace('"', "")
    return (f"Metadata-Version: 2.4\nName: {project('name')}\nVersion: {version()}\nSummary: {project('description')}\n"
            f"Keywords: {keywords}\nLicense-Expression: {project('license')}\nLicense-File: LICENSE\n"
            f"Requires-Python: {project('requires-python')}\n"
            "Description-Content-Type: text/markdown\n\n" + (ROOT / project("readme")).read_text())


# ---- the library -------------------------------------------------------------------------------------------------------------


def build_library():
    """make; returns the file."""
    name = f"lib/libkd.so.{version()}"
    make = os.environ.get("MAKE", "make")
    if not shutil.which(make.split()[0]):
        raise SystemExit(f"libkd: {make} is not there; the library needs make and a C compiler")
    jobs = [] if os.environ.get("MAKEFLAGS") else [f"-j{os.cpu_count() or 1}"]
    done = subprocess.run([*make.split(), *jobs, name], cwd=ROOT, stdout=sys.stderr)
    if done.returncode:
        raise SystemExit(f"libkd: make failed ({done.returncode}); `make {name}` in {ROOT} says why")
    return ROOT / name


def stripped(path):
    """Its bytes without debugging symbols, where there is a strip."""
    out = path.with_name(path.name + ".stripped")
    strip = os.environ.get("STRIP", "strip")
    if not shutil.which(strip) or subprocess.run([strip, "--strip-unneeded", "-o", str(out), str(path)]).returncode:
        return path.read_bytes()
    data = out.read_bytes()
    out.unlink()
    return data


def platform_tag(library):
    """manylinux_X_Y where the file asks for no more than that glibc and its own libraries; else what Python calls this platform."""
    plain = re.sub(r"[-.]", "_", sysconfig.get_platform())
    if not plain.startswith("linux_"):
        return plain
    needed = {name.decode() for name in re.findall(rb"\0((?:lib|ld-)[\w+.-]*\.so\.\d+)(?=\0)",
                                                   library)} - {f"libkd.so.{constant('KD_ABI_VERSION')}"}
    wanted = [tuple(map(int, v)) for v in re.findall(rb"\0GLIBC_(\d+)\.(\d+)", library)]
    if not wanted or not needed <= SYSTEM:
        return plain
    major, minor = max(*wanted, (2, 17))        # 2.17 is manylinux2014
    return f"manylinux_{major}_{minor}_{plain[len('linux_'):]}"


# ---- the wheel ---------------------------------------------------------------------------------------------------------------


def stamp():
    return max(int(os.environ.get("SOURCE_DATE_EPOCH", "315532800")), 315532800)      # zip begins in 1980


class Wheel:
    def __init__(self, folder, tag):
        self.info = f"libkd-{version()}.dist-info"
        self.path = pathlib.Path(folder) / f"libkd-{version()}-{tag}.whl"
        self.tag, self.record = tag, []
        self.zip = zipfile.ZipFile(self.path, "w", zipfile.ZIP_DEFLATED)

    def add(self, name, data, mode=0o644):
        if isinstance(data, str):
            data = data.encode()
        entry = zipfile.ZipInfo(name, time.gmtime(stamp())[:6])
        entry.external_attr = (0o100000 | mode) << 16
        entry.compress_type = zipfile.ZIP_DEFLATED
        self.zip.writestr(entry, data)
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        self.record.append(f"{name},sha256={digest},{len(data)}")

    def close(self):
        for name, data in dist_info(self.tag):
            self.add(f"{self.info}/{name}", data)
        self.record.append(f"{self.info}/RECORD,,")
        self.add(f"{self.info}/RECORD", "\n".join(self.record) + "\n")
        self.zip.close()
        return self.path.name


def dist_info(tag):
    yield "METADATA", metadata()
    yield "WHEEL", f"Wheel-Version: 1.0\nGenerator: kd_build\nRoot-Is-Purelib: false\nTag: {tag}\n"
    yield "licenses/LICENSE", (ROOT / "LICENSE").read_text()


def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    library = stripped(build_library())
    wheel = Wheel(wheel_directory, f"py3-none-{platform_tag(library)}")
    for path in sorted(PACKAGE.glob("*")):
        if path.suffix == ".py" or path.name == "py.typed":
            wheel.add(f"libkd/{path.name}", path.read_bytes())
    wheel.add(f"libkd/_lib/libkd.so.{constant('KD_ABI_VERSION')}", library, 0o755)
    for name in DATA:
        wheel.add(f"libkd/_data/{name}", (ROOT / "examples/data" / name).read_bytes())
    return wheel.close()


def build_editable(wheel_directory, config_settings=None, metadata_directory=None):
    """The package is used where it lies, with the library in lib/: build that again with make."""
    build_library()
    wheel = Wheel(wheel_directory, f"py3-none-{re.sub(r'[-.]', '_', sysconfig.get_platform())}")
    wheel.add("libkd.pth", str(PACKAGE.parent) + "\n")
    return wheel.close()


# ---- the sdist ---------------------------------------------------------------------------------------------------------------


def sources():
    """The files git knows, or all of them in a tree without git; nothing that a build made."""
    if (ROOT / ".git").exists() and shutil.which("git"):
        done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, stdout=subprocess.PIPE)
        if done.returncode == 0:
            return sorted(name for name in done.stdout.decode().split("\0") if name and (ROOT / name).is_file())
    found = []
    for path in ROOT.rglob("*"):
        name = path.relative_to(ROOT)
        if path.is_file() and name.parts[0] not in ("lib", ".git") and "__pycache__" not in name.parts and name.name != "PKG-INFO":
            found.append(str(name))
    return sorted(found)


def build_sdist(sdist_directory, config_settings=None):
    top = f"libkd-{version()}"
    path = pathlib.Path(sdist_directory) / f"{top}.tar.gz"
    import gzip

    with open(path, "wb") as file, gzip.GzipFile("", "wb", 9, file, stamp()) as packed, \
            tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar:
        def add(name, data, mode):
            entry = tarfile.TarInfo(f"{top}/{name}")
            entry.size, entry.mtime, entry.mode = len(data), stamp(), mode
            tar.addfile(entry, io.BytesIO(data))

        add("PKG-INFO", metadata().encode(), 0o644)
        for name in sources():
            add(name, (ROOT / name).read_bytes(), 0o755 if os.access(ROOT / name, os.X_OK) else 0o644)
    return path.name


# ---- hooks -------------------------------------------------------------------------------------------------------------------


def get_requires_for_build_wheel(config_settings=None):
    return []


get_requires_for_build_sdist = get_requires_for_build_editable = get_requires_for_build_wheel


def prepare_metadata_for_build_wheel(metadata_directory, config_settings=None):
    folder = pathlib.Path(metadata_directory) / f"libkd-{version()}.dist-info"
    for name, data in dist_info("py3-none-any"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(data)
    return folder.name


prepare_metadata_for_build_editable = prepare_metadata_for_build_wheel


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] not in ("wheel", "sdist"):
        raise SystemExit("usage: kd_build.py wheel|sdist DIR")
    os.makedirs(sys.argv[2], exist_ok=True)
    print(os.path.join(sys.argv[2], (build_wheel if sys.argv[1] == "wheel" else build_sdist)(sys.argv[2])))
