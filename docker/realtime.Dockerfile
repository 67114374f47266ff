# The real-time host: safety filter and bridge alone. No torch, no simulator, no camera. Build from the repository's root:
#   docker build -f docker/realtime.Dockerfile -t tandem-realtime .
# Run it with the host's network and leave to use real-time priorities (compose.yaml does):
#   docker run --rm --network host --cap-add SYS_NICE --ulimit rtprio=99 --ulimit memlock=-1 tandem-realtime backend:=loopback
# The kernel is the host's: use one with PREEMPT_RT and keep the fast loop's CPU free (isolcpus, argument cpu:=).
FROM ros:jazzy-ros-core

ARG DEBIAN_FRONTEND=noninteractive
RUN apt-get update && apt-get install -y --no-install-recommends \
        python3-colcon-common-extensions python3-numpy python3-pip python3-psutil python3-scipy python3-yaml \
        ros-jazzy-rmw-cyclonedds-cpp ros-jazzy-rmw-fastrtps-cpp \
    && rm -rf /var/lib/apt/lists/*

COPY docker/realtime.requirements.txt /tmp/requirements.txt
RUN pip install --no-cache-dir --break-system-packages --no-deps -r /tmp/requirements.txt

WORKDIR /opt/tandem
COPY package.xml setup.py setup.cfg pyproject.toml ./
COPY resource resource
COPY config config
COPY launch launch
COPY models models
COPY src/tandem/__init__.py src/tandem/py.typed src/tandem/
COPY src/tandem/core src/tandem/core
COPY src/tandem/robots src/tandem/robots
COPY src/tandem/safety src/tandem/safety
COPY src/tandem/execution src/tandem/execution
COPY src/tandem/nodes src/tandem/nodes
COPY src/tandem/cli src/tandem/cli
RUN bash -c "source /opt/ros/jazzy/setup.bash \
    && colcon --log-base /tmp/log build --merge-install --build-base /tmp/build --install-base /opt/install" \
    && rm -rf /tmp/build /tmp/log

# where compiled code is kept: mount a volume here and the filter is ready at once from the second start on
ENV NUMBA_CACHE_DIR=/opt/numba NUMBA_NUM_THREADS=1 OMP_NUM_THREADS=1
COPY config/dds /opt/dds
COPY docker/entrypoint.sh /entrypoint.sh
ENTRYPOINT ["/entrypoint.sh", "ros2", "launch", "tandem", "bringup.launch.py", "part:=realtime", "realtime:=true"]
CMD ["backend:=hardware"]
