// Command fakegpu is a device plugin for GPUs that are not there: it speaks the kubelet's device plugin API, so
// counting, scheduling, allocating and freeing are the real ones and only the silicon is missing.
//
//	RESOURCE    resource to offer, nvidia.com/gpu
//	COUNT       devices on this node, 4
//	HEALTH_DIR  a file named like a device (gpu-2) in this folder makes that device unhealthy
package main

import (
	"context"
	"fmt"
	"log"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	api "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
)

const poll = 200 * time.Millisecond

type plugin struct {
	api.UnimplementedDevicePluginServer
	resource, healthDir string
	count               int
}

func (p *plugin) GetDevicePluginOptions(context.Context, *api.Empty) (*api.DevicePluginOptions, error) {
	return &api.DevicePluginOptions{}, nil
}

// health says for each device whether it is healthy now.
func (p *plugin) health() []string {
	health := make([]string, p.count)
	for i := range health {
		health[i] = api.Healthy
		if _, err := os.Stat(filepath.Join(p.healthDir, deviceID(i))); err == nil {
			health[i] = api.Unhealthy
		}
	}
	return health
}

func deviceID(i int) string { return fmt.Sprintf("gpu-%d", i) }

// ListAndWatch sends the devices at once and again whenever one's health changes.
func (p *plugin) ListAndWatch(_ *api.Empty, stream api.DevicePlugin_ListAndWatchServer) error {
	var sent []string
	for stream.Context().Err() == nil {
		if health := p.health(); !slices.Equal(health, sent) {
			response := &api.ListAndWatchResponse{}
			for i, h := range health {
				response.Devices = append(response.Devices, &api.Device{ID: deviceID(i), Health: h})
			}
			if err := stream.Send(response); err != nil {
				return err
			}
			sent = health
		}
		time.Sleep(poll)
	}
	return nil
}

// Allocate tells the container which devices are its own, in the variable the real plugin uses.
func (p *plugin) Allocate(_ context.Context, request *api.AllocateRequest) (*api.AllocateResponse, error) {
	response := &api.AllocateResponse{}
	for _, container := range request.ContainerRequests {
		response.ContainerResponses = append(response.ContainerResponses, &api.ContainerAllocateResponse{
			Envs: map[string]string{"NVIDIA_VISIBLE_DEVICES": strings.Join(container.DevicesIds, ",")},
		})
	}
	return response, nil
}

// serve registers with the kubelet and returns when the kubelet has restarted: it then removes every plugin's socket
// and expects a new registration.
func (p *plugin) serve() error {
	endpoint := strings.ReplaceAll(p.resource, "/", "_") + ".sock"
	socket := filepath.Join(api.DevicePluginPath, endpoint)
	os.Remove(socket)
	listener, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	server := grpc.NewServer()
	api.RegisterDevicePluginServer(server, p)
	go server.Serve(listener)
	defer server.Stop()
	if err := p.register(endpoint); err != nil {
		return fmt.Errorf("register: %w", err)
	}
	log.Printf("registered %d of %s", p.count, p.resource)
	for {
		if _, err := os.Stat(socket); err != nil {
			return fmt.Errorf("the kubelet restarted: %w", err)
		}
		time.Sleep(poll)
	}
}

func (p *plugin) register(endpoint string) error {
	client, err := grpc.NewClient("unix://"+api.KubeletSocket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	request := &api.RegisterRequest{Version: api.Version, Endpoint: endpoint, ResourceName: p.resource}
	_, err = api.NewRegistrationClient(client).Register(ctx, request)
	return err
}

func env(name, otherwise string) string {
	if value := os.Getenv(name); value != "" {
		return value
	}
	return otherwise
}

func main() {
	count, err := strconv.Atoi(env("COUNT", "4"))
	if err != nil || count < 0 {
		log.Fatalf("COUNT must be a number of devices, for instance 4, not %q", os.Getenv("COUNT"))
	}
	p := &plugin{
		resource:  env("RESOURCE", "nvidia.com/gpu"),
		healthDir: env("HEALTH_DIR", "/var/lib/kubelet/fakegpu"),
		count:     count,
	}
	for {
		log.Print(p.serve())
		time.Sleep(500 * time.Millisecond)
	}
}
