# syntax=docker/dockerfile:1
# A trainer on an NVIDIA GPU. torch brings CUDA's libraries with it, the host its driver.
#     docker build -f docker/trainer.Dockerfile -t headway-trainer .
ARG PYTHON_IMAGE=python:3.12-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
# An index of your own: --build-arg PIP_INDEX_URL=…
ARG PIP_INDEX_URL
RUN python -m venv /opt/headway
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
RUN --mount=type=cache,target=/root/.cache/pip /opt/headway/bin/pip install '.[trainer,s3,otel]'
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
# Triton compiles a launcher for each kernel of FlexAttention when it is first used.
RUN apt-get update && apt-get install --yes --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
RUN useradd --uid 10001 --create-home headway && install -d -o headway -g headway /var/lib/headway /models
COPY --from=build /opt/headway /opt/headway
COPY docker/health.py /opt/health.py
ENV PATH=/opt/headway/bin:$PATH PYTHONUNBUFFERED=1 HEADWAY_DATA_DIR=/var/lib/headway HF_HOME=/models/huggingface \
    NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 10001
WORKDIR /home/headway
HEALTHCHECK --interval=30s --timeout=15s --start-period=120s --retries=3 CMD ["python", "/opt/health.py", "trainer"]
ENTRYPOINT ["headway"]
CMD ["trainer", "--device", "cuda"]
