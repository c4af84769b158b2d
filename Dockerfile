# The image of every node, head and workers, on AWS and on Kubernetes:
#   docker build -t registry.example.com/zimage-ray:0.2.0 . && docker push registry.example.com/zimage-ray:0.2.0
# The base image contains Ray, in the version that pyproject.toml pins. The -gpu image includes a compiler for torch.compile.
FROM rayproject/ray:2.60.0-py311-gpu

# Serve's processes call each other over gRPC, as in `zimage serve`: a third more requests/s.
ENV RAY_SERVE_USE_GRPC_BY_DEFAULT=1
# gRPC's own limit is 4 MiB, which the pixels of 1536x1536 exceed.
ENV RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH=2147483647
# Its HTTP servers answer clients that offer HTTP/2 (`Upgrade: h2c`).
ENV RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH=deployments.http.server_protocol:ignore_upgrades

WORKDIR /home/ray/zimage-ray
COPY --chown=ray:users pyproject.toml constraints.txt LICENSE NOTICE ./
# A separate layer, because these gigabytes change only with the pin.
RUN pip install --no-cache-dir "$(grep '^torch==' constraints.txt)"
COPY --chown=ray:users jobs jobs
COPY --chown=ray:users pipelines pipelines
COPY --chown=ray:users deployments deployments
COPY --chown=ray:users zimage_models zimage_models
RUN pip install --no-cache-dir -c constraints.txt '.[gpu]'
