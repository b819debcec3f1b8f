# The GPU device plugin for kind, where Docker builds it; the native cluster takes the program from its cache.
FROM docker.io/library/golang:1.26-bookworm AS build
WORKDIR /src
COPY . .
RUN CGO_ENABLED=0 go build -trimpath -ldflags="-s -w" -o /fakegpu ./cmd/fakegpu

FROM scratch
COPY --from=build /fakegpu /fakegpu
ENTRYPOINT ["/fakegpu"]
