ENTRYPOINT ["/bin/vip-keeper"]
