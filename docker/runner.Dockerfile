# syntax=docker/dockerfile:1
# A runner: it builds environments, plays them and drives agents. It reaches the server alone.
#     docker build -f docker/runner.Dockerfile -t headway-runner .
ARG PYTHON_IMAGE=python:3.12-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
# An index of your own: --build-arg PIP_INDEX_URL=…
ARG PIP_INDEX_URL
RUN python -m venv /opt/headway
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
RUN --mount=type=cache,target=/root/.cache/pip /opt/headway/bin/pip install '.[runner]'
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
# Environments may depend on packages that are compiled when they are installed, or fetched from repositories.
RUN apt-get update && apt-get install --yes --no-install-recommends gcc git libc6-dev && rm -rf /var/lib/apt/lists/*
RUN useradd --uid 10001 --create-home headway && install -d -o headway -g headway /var/lib/headway
COPY --from=build /opt/headway /opt/headway
COPY docker/health.py /opt/health.py
ENV PATH=/opt/headway/bin:$PATH PYTHONUNBUFFERED=1 HEADWAY_DATA_DIR=/var/lib/headway
USER 10001
WORKDIR /home/headway
EXPOSE 8440
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 CMD ["python", "/opt/health.py", "http", "8440"]
ENTRYPOINT ["headway"]
CMD ["runner", "--host", "0.0.0.0", "--port", "8440"]
