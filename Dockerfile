# Images of this source, for one major of PostgreSQL.
#   docker build --build-arg PG_MAJOR=18 -t keysmith .
# builds PostgreSQL with keysmith, from PostgreSQL's official image. With --target image-volume it
# builds only the extension's files, to be mounted by CloudNativePG.
ARG PG_MAJOR=18
ARG DEBIAN=trixie
ARG RUST=1.95.0

FROM rust:${RUST}-slim-${DEBIAN} AS rust

# On the image that the library is for: so it has the same PostgreSQL and the same C library.
FROM postgres:${PG_MAJOR}-${DEBIAN} AS build
ARG PG_MAJOR
ARG RUST
COPY --from=rust /usr/local/cargo /usr/local/cargo
COPY --from=rust /usr/local/rustup /usr/local/rustup
ENV CARGO_HOME=/usr/local/cargo RUSTUP_HOME=/usr/local/rustup RUSTUP_TOOLCHAIN=${RUST} \
    PATH=/usr/local/cargo/bin:$PATH PG_CONFIG=/usr/lib/postgresql/${PG_MAJOR}/bin/pg_config
# The server is there already, and its headers must be of the same version.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends "postgresql-server-dev-${PG_MAJOR}" \
        debhelper dpkg-dev gcc git libc6-dev libclang-dev lintian make python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /keysmith
COPY . .
RUN make deb image-layout \
    && mv target/deb /packages \
    && mv "target/image/${PG_MAJOR}" /image

FROM scratch AS image-volume
COPY --from=build /image/lib /lib
COPY --from=build /image/share /share
COPY --from=build /image/licenses /licenses
USER 65532:65532

FROM postgres:${PG_MAJOR}-${DEBIAN} AS server
ARG PG_MAJOR
COPY --from=build /packages /packages
# New clusters get the settings of this sample.
RUN dpkg --install "/packages/postgresql-${PG_MAJOR}-keysmith"_*.deb \
    && rm -r /packages \
    && echo "shared_preload_libraries = 'keysmith'" >>/usr/share/postgresql/postgresql.conf.sample
# postgres, by number: then Kubernetes knows that it isn't root.
USER 999:999
