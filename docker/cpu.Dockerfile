# syntax=docker/dockerfile:1
# A trainer or a local sampler without a GPU, for small bases and for trying things out.
#     docker build -f docker/cpu.Dockerfile -t headway-cpu .
ARG PYTHON_IMAGE=python:3.12-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
# An index of your own: --build-arg PIP_INDEX_URL=…
ARG PIP_INDEX_URL
ARG TORCH_INDEX_URL=https://download.pytorch.org/whl/cpu
RUN python -m venv /opt/headway
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
RUN --mount=type=cache,target=/root/.cache/pip \
    /opt/headway/bin/pip install --extra-index-url "${TORCH_INDEX_URL}" '.[trainer,sampler,s3,otel]'
COPY wire wire
COPY store store
COPY server server
COPY trainer trainer
COPY sampler sampler
COPY runner runner
COPY cli cli
COPY migrations migrations
RUN --mount=type=cache,target=/root/.cache/pip /opt/headway/bin/pip install --no-deps --force-reinstall .

FROM ${PYTHON_IMAGE}
RUN useradd --uid 10001 --create-home headway && install -d -o headway -g headway /var/lib/headway /models
COPY --from=build /opt/headway /opt/headway
COPY docker/health.py /opt/health.py
ENV PATH=/opt/headway/bin:$PATH PYTHONUNBUFFERED=1 HEADWAY_DATA_DIR=/var/lib/headway HF_HOME=/models/huggingface
USER 10001
WORKDIR /home/headway
HEALTHCHECK --interval=30s --timeout=15s --start-period=120s --retries=3 CMD ["python", "/opt/health.py", "trainer"]
ENTRYPOINT ["headway"]
CMD ["trainer", "--device", "cpu"]
