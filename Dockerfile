# The image of every node, head and workers, on AWS and on Kubernetes:
#   docker build -t registry.example.com/zimage-ray:0.1.0 . && docker push registry.example.com/zimage-ray:0.1.0
# Ray comes with the base image: its version is the one that pyproject.toml pins. The -gpu image keeps a compiler, for torch.compile.
FROM rayproject/ray:2.60.0-py311-gpu

# Serve's processes ask each other by gRPC, as in `zimage serve`: a third more requests/s.
ENV RAY_SERVE_USE_GRPC_BY_DEFAULT=1

WORKDIR /home/ray/zimage-ray
COPY --chown=ray:users pyproject.toml constraints.txt LICENSE NOTICE ./
# A layer of its own: these gigabytes change only with the pin.
RUN pip install --no-cache-dir "$(grep '^torch==' constraints.txt)"
COPY --chown=ray:users jobs jobs
COPY --chown=ray:users pipelines pipelines
COPY --chown=ray:users deployments deployments
COPY --chown=ray:users zimage_models zimage_models
RUN pip install --no-cache-dir -c constraints.txt '.[gpu]'
