"""Packaging for colcon (ament_python) and pip. Data files land in ``share/tandem``, where ``tandem.core.paths`` finds them."""

from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).resolve().parent
DATA_FOLDERS = ("config", "launch", "models", "tools")
NODES = ("perception", "planner", "safety_filter", "franka_bridge", "camera", "scene_publisher", "recorder")


def data_files() -> list[tuple[str, list[str]]]:
    """(target folder, files) pairs: the ament index entry, package.xml, and the data folders with their structure kept."""
    files: list[tuple[str, list[str]]] = [
        ("share/ament_index/resource_index/packages", ["resource/tandem"]),
        ("share/tandem", ["package.xml"]),
    ]
    for folder in DATA_FOLDERS:
        for path in sorted((ROOT / folder).rglob("*")):
            relative = path.relative_to(ROOT)
            if path.is_file() and "__pycache__" not in relative.parts:
                files.append((f"share/tandem/{relative.parent}", [str(relative)]))
    return files


def node_scripts() -> list[str]:
    """One executable for every node module in the tree."""
    return [f"{n} = tandem.nodes.{n}:main" for n in NODES if (ROOT / "src" / "tandem" / "nodes" / f"{n}.py").is_file()]


def requirements() -> list[str]:
    """What Tandem imports at run time; requirements.lock pins exact versions of these and of everything below them."""
    return [
        "coal>=3", "matplotlib", "mujoco>=3.3", "numba>=0.60", "numpy>=1.26", "opencv-python-headless>=4.8", "pillow", "psutil",
        "pyyaml", "rich", "rosbags>=0.10", "safetensors", "scipy", "torch>=2.4", "typer",
    ]


setup(
    name="tandem",
    version="0.1.0",
    description="Runs a learned diffusion policy on a Franka FR3 and never moves on anything that is not certified",
    license="Apache-2.0",
    maintainer="The Tandem developers",
    maintainer_email="tandem@example.org",
    python_requires=">=3.11",
    package_dir={"": "src"},
    packages=find_packages("src"),
    package_data={"tandem": ["py.typed"], "tandem.bench": ["*.html"]},
    data_files=data_files(),
    install_requires=requirements(),
    extras_require={"hardware": ["pylibfranka>=0.21"]},
    zip_safe=False,
    entry_points={"console_scripts": ["tandem = tandem.cli.main:main", *node_scripts()]},
)
