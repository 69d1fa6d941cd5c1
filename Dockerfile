# syntax=docker/dockerfile:1
# A static binary, the CAs of the build image, and nothing else: no shell, no libraries, no root.
#
#   docker build -t countersign .
#   docker run --read-only --cap-drop ALL -v "$PWD/my:/etc/countersign:ro" -p 8443:8443 countersign
#
# `--tmpfs /tmp` beside that also runs `countersign demo --once` in it.

FROM rust:1.95-bookworm AS build
WORKDIR /build
COPY . .
# what is laid out in /root-fs is the image; the caches are of the builder and of no layer
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/build/target \
    deploy/image-root /root-fs

FROM scratch AS image
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="countersign" \
      org.opencontainers.image.description="An identity-aware reverse proxy: two signatures on every request" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION"
COPY --from=build /root-fs/ /
# where -c looks when it is not given; a folder of *.toml
ENV COUNTERSIGN_CONFIG=/etc/countersign
USER 65532:65532
# the port of the sample configuration
EXPOSE 8443
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s CMD ["/countersign", "healthcheck"]
# SIGTERM drains
STOPSIGNAL SIGTERM
ENTRYPOINT ["/countersign"]
CMD ["run"]
