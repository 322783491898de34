# syntax=docker/dockerfile:1
# Attune's server and command on Debian 12. Build: docker build -t attune .
FROM debian:12 AS build
WORKDIR /src
ENV ATTUNE_CACHE=/opt/attune/cache DEBIAN_FRONTEND=noninteractive
# The dependencies are a layer of their own: they change less often than the sources.
COPY deploy/install-dependencies deploy/environment.sh deploy/
RUN deploy/install-dependencies
COPY CMakeLists.txt CMakePresets.json ./
COPY deploy deploy
COPY proto proto
COPY common common
COPY server server
COPY client client
COPY tests/CMakeLists.txt tests/
RUN deploy/build && deploy/bundle --output /opt/attune/bundle

FROM debian:12-slim
RUN apt-get update -qq \
    && apt-get install -qq -y --no-install-recommends python3 ca-certificates curl \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --home-dir /var/lib/attune --create-home attune \
    && mkdir /models && chown attune /models
COPY --from=build /opt/attune/bundle /opt/attune/bundle
# torch's libraries come from the environment that was built against.
COPY --from=build /opt/attune/cache/python-torch2.11.0 /opt/attune/cache/python-torch2.11.0
ENV PYTHON=/opt/attune/cache/python-torch2.11.0/bin/python PATH=/opt/attune:$PATH
RUN printf '#!/bin/sh\nexec /opt/attune/bundle/run attune "$@"\n' >/opt/attune/attune \
    && printf '#!/bin/sh\nexec /opt/attune/bundle/run attuned "$@"\n' >/opt/attune/attuned \
    && chmod +x /opt/attune/attune /opt/attune/attuned
USER attune
VOLUME ["/var/lib/attune"]
EXPOSE 7700 7780
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --start-period=60s CMD curl -fsS http://127.0.0.1:7780/healthz
ENTRYPOINT ["/opt/attune/attuned"]
CMD ["--data-dir", "/var/lib/attune", "--import-root", "/models", "--listen", "0.0.0.0:7700", "--http-listen", "0.0.0.0:7780"]
