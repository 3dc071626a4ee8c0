# The commands of kkanji for a machine with NVIDIA GPUs: docs/clusters.md says how to start them. The CUDA runtime comes
# with torch's wheels in the versions of constraints.txt; the driver is the host's.
FROM python:3.11.14-slim-bookworm

# Triton compiles with it what it starts kernels by.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /opt/kkanji
COPY pyproject.toml setup.cfg constraints.txt README.md LICENSE ./
COPY shards shards
COPY kkanji kkanji
COPY tools tools
COPY launch launch
COPY models models
RUN pip install --no-cache-dir --constraint constraints.txt '.[export,trackers]'

ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility KKANJI_CACHE=/cache
RUN useradd --create-home --uid 1000 kkanji && mkdir /cache && chown kkanji /cache
USER 1000
VOLUME /cache
WORKDIR /home/kkanji
ENTRYPOINT ["kkanji"]
CMD ["doctor"]
