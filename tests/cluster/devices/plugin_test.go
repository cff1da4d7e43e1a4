package main

import (
	"context"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	pluginapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
	registerapi "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
)

// dial starts a plugin and connects to it as the kubelet does.
func dial(t *testing.T, i *inventory) (*grpc.ClientConn, context.Context) {
	t.Helper()
	p, err := startPlugin(t.TempDir(), i, func(err error) { t.Error(err) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.stop)
	conn, err := grpc.NewClient("unix:"+p.socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	t.Cleanup(cancel)
	return conn, ctx
}

func TestTheKubeletFindsTheResource(t *testing.T) {
	conn, ctx := dial(t, inventoryOf(t, 1))
	info, err := registerapi.NewRegistrationClient(conn).GetInfo(ctx, &registerapi.InfoRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if info.Type != registerapi.DevicePlugin || info.Name != "example.com/gpu" || info.SupportedVersions[0] != "v1beta1" {
		t.Errorf("%v", info)
	}
}

func TestTheKubeletSeesEachChangeOfTheDevices(t *testing.T) {
	i := inventoryOf(t, 2)
	conn, ctx := dial(t, i)
	stream, err := pluginapi.NewDevicePluginClient(conn).ListAndWatch(ctx, &pluginapi.Empty{})
	if err != nil {
		t.Fatal(err)
	}
	expect := func(want map[string]string) {
		t.Helper()
		answer, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if len(answer.Devices) != len(want) {
			t.Errorf("%v, want %v", answer.Devices, want)
		}
		for _, d := range answer.Devices {
			if want[d.ID] != d.Health {
				t.Errorf("%s is %s, want %v", d.ID, d.Health, want)
			}
		}
	}
	expect(map[string]string{"gpu-0": "Healthy", "gpu-1": "Healthy"})
	for _, step := range []struct {
		text string
		want map[string]string
	}{
		{"gpu-0 unhealthy", map[string]string{"gpu-0": "Unhealthy", "gpu-1": "Healthy"}},
		{"gpu-0 gone", map[string]string{"gpu-1": "Healthy"}},
	} {
		if err := i.apply(step.text); err != nil {
			t.Fatal(err)
		}
		expect(step.want)
	}
}

func TestAContainerIsToldItsDevicesAndNeverGetsALostOne(t *testing.T) {
	i := inventoryOf(t, 2)
	conn, ctx := dial(t, i)
	client := pluginapi.NewDevicePluginClient(conn)
	request := &pluginapi.AllocateRequest{ContainerRequests: []*pluginapi.ContainerAllocateRequest{{DevicesIds: []string{"gpu-0", "gpu-1"}}}}
	answer, err := client.Allocate(ctx, request)
	if err != nil {
		t.Fatal(err)
	}
	if got := answer.ContainerResponses[0].Envs[variable]; got != "gpu-0,gpu-1" {
		t.Errorf("%s=%s", variable, got)
	}
	if err := i.apply("gpu-1 unhealthy"); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Allocate(ctx, request); err == nil {
		t.Error("an unhealthy device was given to a container")
	}
}
