# syntax=docker/dockerfile:1
# The server, and every other command that needs no torch: migrate, keys, status, gc, doctor, verify, backup, restore.
#     docker build -f docker/server.Dockerfile -t headway-server .
ARG PYTHON_IMAGE=python:3.12-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
# An index of your own: --build-arg PIP_INDEX_URL=…
ARG PIP_INDEX_URL
RUN python -m venv /opt/headway
WORKDIR /src
# What we depend on changes less often than we do: a layer of its own.
COPY pyproject.toml README.md LICENSE ./
RUN --mount=type=cache,target=/root/.cache/pip /opt/headway/bin/pip install '.[server,s3,otel]'
COPY wire wire
COPY store store
COPY server server
COPY trainer trainer
COPY sampler sampler
COPY runner runner
COPY cli cli
COPY migrations migrations
COPY docs docs
RUN --mount=type=cache,target=/root/.cache/pip /opt/headway/bin/pip install --no-deps --force-reinstall .

FROM ${PYTHON_IMAGE}
RUN useradd --uid 10001 --create-home headway && install -d -o headway -g headway /var/lib/headway
COPY --from=build /opt/headway /opt/headway
COPY docker/health.py /opt/health.py
ENV PATH=/opt/headway/bin:$PATH PYTHONUNBUFFERED=1 HEADWAY_DATA_DIR=/var/lib/headway
USER 10001
WORKDIR /home/headway
EXPOSE 8420
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 CMD ["python", "/opt/health.py", "http", "8420"]
ENTRYPOINT ["headway"]
CMD ["server", "--host", "0.0.0.0"]
