package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"

	"google.golang.org/grpc"
	"k8s.io/klog/v2"
	pluginapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
	registerapi "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
)

const (
	resourceName = "example.com/gpu"
	socketName   = "example.com-gpu.sock"
	// variable of a container that names its devices.
	variable = "GRID_FAKE_DEVICES"
)

// plugin serves the kubelet's device plugin API. It is found through the plugins_registry folder, which the kubelet
// reads again after its own restart; nothing has to register twice.
type plugin struct {
	pluginapi.UnimplementedDevicePluginServer
	registerapi.UnimplementedRegistrationServer
	inventory *inventory
	socket    string
	server    *grpc.Server
}

func startPlugin(folder string, inventory *inventory, failed context.CancelCauseFunc) (*plugin, error) {
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return nil, err
	}
	p := &plugin{inventory: inventory, socket: filepath.Join(folder, socketName), server: grpc.NewServer()}
	// What a killed process left behind.
	if err := os.Remove(p.socket); err != nil && !os.IsNotExist(err) {
		return nil, err
	}
	listener, err := net.Listen("unix", p.socket)
	if err != nil {
		return nil, err
	}
	pluginapi.RegisterDevicePluginServer(p.server, p)
	registerapi.RegisterRegistrationServer(p.server, p)
	go func() {
		if err := p.server.Serve(listener); err != nil {
			failed(fmt.Errorf("%s: %w", p.socket, err))
		}
	}()
	return p, nil
}

// stop closes the streams and removes the socket: the kubelet then takes the devices off the node.
func (p *plugin) stop() { p.server.Stop() }

// GetInfo tells the kubelet what it has found.
func (p *plugin) GetInfo(context.Context, *registerapi.InfoRequest) (*registerapi.PluginInfo, error) {
	return &registerapi.PluginInfo{
		Type: registerapi.DevicePlugin, Name: resourceName, Endpoint: p.socket, SupportedVersions: []string{pluginapi.Version},
	}, nil
}

// NotifyRegistrationStatus is the kubelet's answer.
func (p *plugin) NotifyRegistrationStatus(_ context.Context, s *registerapi.RegistrationStatus) (*registerapi.RegistrationStatusResponse, error) {
	if !s.PluginRegistered {
		klog.Errorf("the kubelet refused the device plugin: %s", s.Error)
	}
	return &registerapi.RegistrationStatusResponse{}, nil
}

// GetDevicePluginOptions asks for no further calls.
func (p *plugin) GetDevicePluginOptions(context.Context, *pluginapi.Empty) (*pluginapi.DevicePluginOptions, error) {
	return &pluginapi.DevicePluginOptions{}, nil
}

// ListAndWatch sends the devices now and after each change.
func (p *plugin) ListAndWatch(_ *pluginapi.Empty, stream grpc.ServerStreamingServer[pluginapi.ListAndWatchResponse]) error {
	for {
		devices, changed := p.inventory.snapshot()
		if err := stream.Send(&pluginapi.ListAndWatchResponse{Devices: listed(devices)}); err != nil {
			return err
		}
		select {
		case <-stream.Context().Done():
			return nil
		case <-changed:
		}
	}
}

func listed(devices []device) []*pluginapi.Device {
	var list []*pluginapi.Device
	for _, d := range devices {
		switch d.state {
		case healthy:
			list = append(list, &pluginapi.Device{ID: d.name, Health: pluginapi.Healthy})
		case unhealthy:
			list = append(list, &pluginapi.Device{ID: d.name, Health: pluginapi.Unhealthy})
		}
	}
	return list
}

// Allocate tells each container which devices it has.
func (p *plugin) Allocate(_ context.Context, request *pluginapi.AllocateRequest) (*pluginapi.AllocateResponse, error) {
	answer := &pluginapi.AllocateResponse{}
	for _, container := range request.ContainerRequests {
		for _, id := range container.DevicesIds {
			if s := p.inventory.state(id); s != healthy {
				return nil, fmt.Errorf("%s is %s", id, s)
			}
		}
		answer.ContainerResponses = append(answer.ContainerResponses, &pluginapi.ContainerAllocateResponse{
			Envs: map[string]string{variable: strings.Join(container.DevicesIds, ",")},
		})
	}
	return answer, nil
}
