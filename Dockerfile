# The image whose containers run pipelines for a work pool (docs/guide/schedules.md): docker build --tag reconwatch .
# It has no ENTRYPOINT: the worker names the command, which Kubernetes would only append to one.
FROM python:3.11-slim

# The build of PyTorch (cpu, cu130, ...), the extras that the pipelines need, and whose the folders are that get mounted.
ARG UV_TORCH_BACKEND=cpu
ARG EXTRAS=postgresql,s3
ARG UID=1000

RUN pip install --no-cache-dir uv && useradd --create-home --uid "$UID" reconwatch
WORKDIR /opt/reconwatch
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY ae_models ae_models
COPY flows flows
RUN uv pip install --system --no-cache --compile-bytecode \
    --constraints constraints.txt --build-constraints constraints.txt ".[$EXTRAS]"

USER reconwatch
WORKDIR /home/reconwatch
CMD ["reconwatch", "--help"]
