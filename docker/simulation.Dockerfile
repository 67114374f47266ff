# Tandem with simulator, policy and ROS 2 Jazzy. Build from the repository's root:
#   docker build -f docker/simulation.Dockerfile -t tandem-simulation .
#   docker run --rm -v "$PWD/out:/out" tandem-simulation demo --out /out
FROM ros:jazzy-ros-base

ARG DEBIAN_FRONTEND=noninteractive
# an index with CPU builds of PyTorch; empty: the platform's default build
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu

RUN apt-get update && apt-get install -y --no-install-recommends \
        git libegl1 libegl-mesa0 libgl1 libgl1-mesa-dri libosmesa6 python3-pip python3-venv \
        ros-jazzy-rmw-cyclonedds-cpp ros-jazzy-rmw-fastrtps-cpp \
    && rm -rf /var/lib/apt/lists/*

ENV XDG_CACHE_HOME=/opt/cache TANDEM_NO_APT=1 MUJOCO_GL=egl
WORKDIR /opt/tandem

COPY . .
RUN bash -c "source /opt/ros/jazzy/setup.bash && TANDEM_TORCH_INDEX=${TORCH_INDEX} ./tandem.sh setup"

# the ROS package, its executables on the environment's Python
RUN bash -c "source /opt/ros/jazzy/setup.bash \
    && colcon --log-base /tmp/log build --merge-install --build-base /tmp/build --install-base /opt/install" \
    && sed -i "1s|^#!.*|#!$(echo /opt/cache/tandem/env-*/bin/python)|" /opt/install/lib/tandem/* \
    && rm -rf /tmp/build /tmp/log

COPY config/dds /opt/dds
COPY docker/entrypoint.sh /entrypoint.sh
ENTRYPOINT ["/entrypoint.sh", "/opt/tandem/tandem.sh"]
CMD ["demo"]
