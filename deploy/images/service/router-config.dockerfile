ENTRYPOINT ["/bin/router-config"]
