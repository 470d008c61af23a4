# A port below 1024 without root: Docker sets net.ipv4.ip_unprivileged_port_start=0 in a container's own network.
EXPOSE 80
ENTRYPOINT ["/bin/example-web"]
