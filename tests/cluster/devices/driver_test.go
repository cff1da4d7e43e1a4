package main

import (
	"context"
	"testing"
	"time"

	resourceapi "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/dynamic-resource-allocation/kubeletplugin"
)

func driverOf(t *testing.T, i *inventory) *driver {
	t.Helper()
	return newDriver(i, "node-1", func(err error) { t.Error(err) })
}

func claim(uid string, devices ...string) *resourceapi.ResourceClaim {
	results := []resourceapi.DeviceRequestAllocationResult{{Request: "nic", Driver: "other.example.com", Pool: "node-1", Device: "eth0"}}
	for _, device := range devices {
		results = append(results, resourceapi.DeviceRequestAllocationResult{Request: "devices", Driver: driverName, Pool: "node-1", Device: device})
	}
	allocation := &resourceapi.AllocationResult{Devices: resourceapi.DeviceAllocationResult{Results: results}}
	return &resourceapi.ResourceClaim{
		ObjectMeta: metav1.ObjectMeta{UID: types.UID(uid)},
		Status:     resourceapi.ResourceClaimStatus{Allocation: allocation},
	}
}

func prepare(t *testing.T, d *driver, c *resourceapi.ResourceClaim) kubeletplugin.PrepareResult {
	t.Helper()
	results, err := d.PrepareResourceClaims(context.Background(), []*resourceapi.ResourceClaim{c})
	if err != nil {
		t.Fatal(err)
	}
	result, ok := results[c.UID]
	if !ok {
		t.Fatal("a claim has no result")
	}
	return result
}

func TestAClaimGetsItsOwnDriversDevicesAndAskingAgainGivesTheSame(t *testing.T) {
	d := driverOf(t, inventoryOf(t, 2))
	for range 2 {
		result := prepare(t, d, claim("a", "gpu-0", "gpu-1"))
		if result.Err != nil || len(result.Devices) != 2 || result.Devices[0].DeviceName != "gpu-0" || result.Devices[0].Requests[0] != "devices" {
			t.Fatalf("%+v", result)
		}
	}
}

func TestADeviceIsGivenToOneClaimUntilItIsTakenBack(t *testing.T) {
	d := driverOf(t, inventoryOf(t, 2))
	prepare(t, d, claim("a", "gpu-0"))
	if result := prepare(t, d, claim("b", "gpu-1", "gpu-0")); result.Err == nil {
		t.Fatal("one device was given to two claims")
	}
	if result := prepare(t, d, claim("c", "gpu-1")); result.Err != nil {
		t.Errorf("a refused claim kept a device: %v", result.Err)
	}
	results, err := d.UnprepareResourceClaims(context.Background(), []kubeletplugin.NamespacedObject{{UID: "a"}, {UID: "never-seen"}})
	if err != nil || len(results) != 2 || results["a"] != nil || results["never-seen"] != nil {
		t.Fatalf("%v %v", results, err)
	}
	if result := prepare(t, d, claim("d", "gpu-0")); result.Err != nil {
		t.Errorf("a device that was taken back is not given again: %v", result.Err)
	}
}

func TestALostDeviceIsNotPrepared(t *testing.T) {
	i := inventoryOf(t, 1)
	d := driverOf(t, i)
	if err := i.apply("gpu-0 unhealthy"); err != nil {
		t.Fatal(err)
	}
	if result := prepare(t, d, claim("a", "gpu-0")); result.Err == nil {
		t.Error("an unhealthy device was prepared")
	}
	if result := prepare(t, d, &resourceapi.ResourceClaim{}); result.Err == nil {
		t.Error("a claim without an allocation was prepared")
	}
}

func TestTheSliceTaintsUnhealthyDevicesAndLeavesGoneOnesOut(t *testing.T) {
	devices := []device{{"gpu-0", healthy}, {"gpu-1", unhealthy}, {"gpu-2", gone}}
	slices := published("node-1", devices).Pools["node-1"].Slices
	if len(slices) != 1 || len(slices[0].Devices) != 2 {
		t.Fatalf("%+v", slices)
	}
	if first, second := slices[0].Devices[0], slices[0].Devices[1]; len(first.Taints) != 0 || len(second.Taints) != 1 ||
		second.Taints[0].Effect != resourceapi.DeviceTaintEffectNoSchedule {
		t.Errorf("%+v", slices[0].Devices)
	}
	if empty := published("node-1", []device{{"gpu-0", gone}}).Pools["node-1"].Slices; len(empty) != 1 {
		t.Error("a node that lost all its devices publishes no slice")
	}
}

func TestTheKubeletHearsOfEveryDeviceNowAndAfterAChange(t *testing.T) {
	i := inventoryOf(t, 2)
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	reports, ended := make(chan kubeletplugin.DeviceHealthReport), make(chan error, 1)
	go func() { ended <- driverOf(t, i).WatchHealthStatus(ctx, reports) }()
	expect := func(want ...kubeletplugin.HealthStatus) {
		t.Helper()
		select {
		case report := <-reports:
			for k, w := range want {
				if len(report.Devices) != len(want) || report.Devices[k].Health != w || report.Devices[k].PoolName != "node-1" {
					t.Errorf("%+v, want %v", report.Devices, want)
				}
			}
		case <-ctx.Done():
			t.Fatal("no report came")
		}
	}
	expect(kubeletplugin.HealthStatusHealthy, kubeletplugin.HealthStatusHealthy)
	if err := i.apply("gpu-0 gone\ngpu-1 unhealthy"); err != nil {
		t.Fatal(err)
	}
	expect(kubeletplugin.HealthStatusUnhealthy, kubeletplugin.HealthStatusUnhealthy)
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
