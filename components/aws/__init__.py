"""AWS: EKS, edge nodes as EC2 instances on fixed addresses, and a Transit Gateway or a VPC Route Server that they announce to."""
