# The daemon in a container: docker build -t batchgen . ; README, "Every night", says how to run it. jobs/cluster/ runs workers of it.
ARG PYTHON_VERSION=3.12

FROM python:${PYTHON_VERSION}-slim AS build
WORKDIR /src
COPY pyproject.toml requirements.lock README.md LICENSE ./
COPY batchgen ./batchgen
RUN python -m venv /opt/batchgen \
    && /opt/batchgen/bin/pip install --no-cache-dir --disable-pip-version-check --constraint requirements.lock '.[daemon,notify,metrics,cluster,cloud,vertex]'

FROM python:${PYTHON_VERSION}-slim
RUN useradd --uid 1000 --no-create-home --home-dir /work batchgen \
    && install --directory --owner=1000 --group=1000 /work
COPY --from=build /opt/batchgen /opt/batchgen
# Manifests, pictures and state are all in the volume: the root file system may be read-only.
ENV PATH=/opt/batchgen/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    XDG_STATE_HOME=/work/.state
USER 1000:1000
WORKDIR /work
VOLUME ["/work"]
# To a daemon it means: finish what is in flight. Give it longer than --grace: docker stop --timeout 90.
STOPSIGNAL SIGTERM
# /dev/shm can be written to in a read-only container, and is new in each. A command without --health-file has no such file.
HEALTHCHECK --interval=60s --timeout=5s --start-period=30s \
    CMD test ! -e /dev/shm/batchgen.alive || test -n "$(find /dev/shm/batchgen.alive -mmin -3)"
ENTRYPOINT ["batchgen"]
CMD ["daemon", "--health-file", "/dev/shm/batchgen.alive"]
