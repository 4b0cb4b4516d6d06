# One image for all services and HAProxy. The base is any Debian 12: a public one, or one made without a registry by
# container/base.sh. Build: make up RUNTIME=compose, docker compose build, or
#   docker build --network host --build-arg BASE=… -t libvirt-autoscaler .
ARG BASE=debian:12-slim

FROM ${BASE} AS system
COPY container/packages.txt container/system-packages.sh /tmp/container/
RUN /tmp/container/system-packages.sh

FROM system AS trimmed
COPY container/trim-system.sh /tmp/container/
RUN /tmp/container/trim-system.sh && rm -rf /tmp/container

FROM system AS program
# Where pip finds its index, if that is not the public one; proxies are Docker's own build arguments.
ARG PIP_INDEX_URL
WORKDIR /build
COPY requirements requirements
COPY container/python-packages.sh container/
COPY container/wheels container/wheels
RUN container/python-packages.sh /opt/libvirt-autoscaler/packages
WORKDIR /opt/libvirt-autoscaler
COPY common common
COPY services services
COPY cli cli
COPY scripts scripts
COPY container/entry.sh container/libvirt-reader.cfg container/compile.py container/
RUN PYTHONPATH=packages:. python3 container/compile.py && rm container/compile.py

FROM scratch
COPY --from=trimmed / /
COPY --from=program /opt/libvirt-autoscaler /opt/libvirt-autoscaler
ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    LANG=C.UTF-8 \
    PYTHONPATH=/opt/libvirt-autoscaler/packages:/opt/libvirt-autoscaler \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    MPLCONFIGDIR=/tmp/matplotlib \
    AUTOSCALER_CONFIG=/etc/libvirt-autoscaler/autoscaler.toml
WORKDIR /opt/libvirt-autoscaler
USER 10001:10001
ENTRYPOINT ["/opt/libvirt-autoscaler/container/entry.sh"]
