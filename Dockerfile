# mmsafe for NVIDIA GPUs, with the tested versions. Neither built nor run by the tests: they have no Docker and no GPU.
#
#   docker build -t mmsafe .
#   docker run --rm --gpus all --shm-size 16g -v "$PWD":/workspace -v mmsafe-cache:/cache mmsafe doctor
#
# PyTorch's wheels bring CUDA's libraries; the host needs a driver and NVIDIA's container toolkit. What DeepSpeed compiles
# itself (its offloaded Adam, say) wants nvcc as well: --build-arg BASE=IMAGE, one of CUDA's with nvcc and Python 3.11.
ARG BASE=python:3.11-slim
FROM ${BASE}

# A compiler for torch.compile and DeepSpeed; git for the commit that run.json records.
RUN apt-get update && apt-get install -y --no-install-recommends g++ git && rm -rf /var/lib/apt/lists/*

WORKDIR /opt/mmsafe
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY conf conf
COPY hydra_plugins hydra_plugins
COPY mmsafe mmsafe
RUN pip install --no-cache-dir -c constraints.txt '.[deepspeed,qlora,judge,wandb,board,optuna,smolvlm]'

RUN useradd --create-home --uid 1000 mmsafe && mkdir /cache /workspace && chown mmsafe /cache /workspace
USER mmsafe
ENV MMSAFE_CACHE=/cache NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
WORKDIR /workspace
ENTRYPOINT ["mmsafe"]
CMD ["--help"]
