ENTRYPOINT ["/bin/registrator"]
