# syntax=docker/dockerfile:1
# A sampler with vLLM on an NVIDIA GPU: two environments, since they want different releases of torch. Ours speaks HTTP
# to vLLM's and computes nothing on the GPU, so its torch is the CPU build.
#     docker build -f docker/sampler.Dockerfile -t headway-sampler .
# vLLM compiles kernels on its first start and wants nvcc for some of them.
ARG CUDA_IMAGE=nvidia/cuda:13.0.3-devel-ubuntu24.04

FROM ${CUDA_IMAGE} AS python
RUN apt-get update && apt-get install --yes --no-install-recommends \
    gcc g++ ninja-build python3.12 python3.12-dev python3.12-venv && rm -rf /var/lib/apt/lists/*

FROM python AS vllm
# An index of your own: --build-arg PIP_INDEX_URL=…
ARG PIP_INDEX_URL
ARG VLLM_VERSION=0.33.0
RUN python3.12 -m venv /opt/vllm
RUN --mount=type=cache,target=/root/.cache/pip /opt/vllm/bin/pip install "vllm==${VLLM_VERSION}"

FROM python AS build
ARG PIP_INDEX_URL
ARG TORCH_INDEX_URL=https://download.pytorch.org/whl/cpu
RUN python3.12 -m venv /opt/headway
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
RUN --mount=type=cache,target=/root/.cache/pip \
    /opt/headway/bin/pip install --extra-index-url "${TORCH_INDEX_URL}" '.[sampler,s3,otel]'
COPY wire wire
COPY store store
COPY server server
COPY trainer trainer
COPY sampler sampler
COPY runner runner
COPY cli cli
COPY migrations migrations
RUN --mount=type=cache,target=/root/.cache/pip /opt/headway/bin/pip install --no-deps --force-reinstall .

FROM python
RUN useradd --uid 10001 --create-home headway && install -d -o headway -g headway /var/lib/headway /models
COPY --from=vllm /opt/vllm /opt/vllm
COPY --from=build /opt/headway /opt/headway
COPY docker/health.py /opt/health.py
ENV PATH=/opt/headway/bin:$PATH PYTHONUNBUFFERED=1 HEADWAY_DATA_DIR=/var/lib/headway HF_HOME=/models/huggingface \
    HEADWAY_VLLM_PYTHON=/opt/vllm/bin/python NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 10001
WORKDIR /home/headway
EXPOSE 8430
# It listens once vLLM has loaded the base.
HEALTHCHECK --interval=10s --timeout=5s --start-period=900s --retries=3 CMD ["python", "/opt/health.py", "http", "8430"]
ENTRYPOINT ["headway"]
CMD ["sampler", "--host", "0.0.0.0", "--port", "8430", "--backend", "vllm"]
