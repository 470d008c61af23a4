ENTRYPOINT ["/bin/consul-bootstrapper"]
